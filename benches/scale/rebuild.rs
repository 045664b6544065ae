//! `cache rebuild`: the local index made from nothing but a region's segments.

use super::measure::{Figure, Places};
use super::program::Home;
use super::segments::{count, segment};
use keepstone::index::segment::{seal, segment_name};

pub fn measure(chunks: u64, places: &Places) -> Vec<Figure> {
    let home = Home::new(&places.disk, places);
    let repository = home.open();
    let slot = repository.signer().slot;
    let mut stored = 0u64;
    for at in 0..count(chunks) {
        let listed = segment(at, chunks, slot);
        let sealed = seal(&listed, &repository.keyring, &repository.signer(), &*repository.random);
        let (bytes, id) = sealed.expect("an owner may");
        stored += bytes.len() as u64;
        // Written without waiting for the disk: only what reads it is measured.
        let path = home.region().join(segment_name(&id));
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
    let rebuilt = home.run(&["--no-progress", "--json", "cache", "rebuild"]);
    let info = home.run(&["--no-progress", "--json", "cache", "info"]);
    let known = format!("\"chunks\": {chunks}");
    assert!(info.printed.replace("\":", "\": ").replace(":  ", ": ").contains(&known), "{known}: {}", info.printed);
    let mut figures = Vec::from(rebuilt.figures("rebuilding"));
    figures.push(Figure::new("for a million chunks", "s", rebuilt.took.as_secs_f64() * 1e6 / chunks as f64));
    figures.push(Figure::mebibytes("segments", stored));
    figures
}
