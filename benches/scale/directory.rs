//! One directory of empty files, backed up and backed up again after one of them changed.

use super::measure::{Figure, Places};
use super::program::Home;

pub fn measure(entries: u64, places: &Places) -> Vec<Figure> {
    let home = Home::new(&places.tmpfs, places);
    let source = home.path("source");
    std::fs::create_dir(&source).expect("made");
    let path = |number: u64| source.join(format!("an-entry-{number:08}"));
    for number in 0..entries {
        std::fs::File::create(path(number)).expect("made");
    }
    let backup = ["--no-progress", "--quiet", "backup", source.to_str().expect("UTF-8")];
    let first = home.run(&backup);
    let first_bytes = home.stored_bytes();
    std::fs::write(path(entries / 2), b"changed").expect("written");
    let next = home.run(&backup);
    let mut figures = Vec::from(first.figures("first backup"));
    figures.push(Figure::mebibytes("repository", first_bytes));
    figures.extend(next.figures("backup after one change"));
    figures.push(Figure::new("added by it", "KiB", (home.stored_bytes() - first_bytes) as f64 / 1024.0));
    figures
}
