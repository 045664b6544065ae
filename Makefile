# What a person or a machine does with the project; each target does its own set-up. `make help` lists them.

PREFIX ?= /usr/local
FUZZ_SECONDS ?= 30
ROUNDS ?= 3
STEPS ?= 6
CARGO ?= cargo
XDG_CACHE_HOME ?= $(HOME)/.cache
# Outside the checkout: RocksDB takes long to compile, and a fresh clone shouldn't compile it again.
CARGO_TARGET_DIR ?= $(XDG_CACHE_HOME)/keepstone/target
export CARGO CARGO_TARGET_DIR

PROGRAM = $(CARGO_TARGET_DIR)/release/keepstone

.PHONY: help build demo test lint model fuzz compare scale install clean

help:
	@echo 'make demo [DIR=directory]     back a directory up into two regions, change it, restore it, check it'
	@echo 'make test                     every test'
	@echo 'make lint                     formatting, lints, structure'
	@echo 'make model                    explore the commit and collection protocol within larger bounds than `make test`'
	@echo 'make fuzz [FUZZ_SECONDS=30]   fuzz every decoder, so many seconds each'
	@echo 'make compare A=tree B=tree     time this program and others on two versions of a tree [ROUNDS=3]'
	@echo 'make scale [STEPS=6]          what each cost does when a repository grows, to 10^STEPS chunks'
	@echo 'make build                    the program: $(PROGRAM)'
	@echo 'make install [PREFIX=/usr/local] [DESTDIR=]'
	@echo 'make clean                    remove what was compiled'

build:
	@tests/setup.sh build
	$(CARGO) build --release --locked

demo: build
	@tests/demo.sh $(PROGRAM) $(if $(DIR),'$(DIR)')

test:
	@tests/setup.sh test
	@tests/run.sh

# All in the release profile, in which RocksDB is compiled anyway.
lint:
	@tests/setup.sh build
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	$(CARGO) clippy --release --locked --lib --no-default-features -- -D warnings
	$(CARGO) test --release --locked --test tidy

# The tests one after another, on two threads each. format-spec/model.md has the numbers.
model:
	@tests/setup.sh build
	KEEPSTONE_MODEL=large $(CARGO) test --release --locked --test model -- --nocapture --test-threads=1

fuzz:
	@tests/setup.sh build
	@tests/fuzz.sh $(FUZZ_SECONDS)

# Uses whichever other programs are installed; downloads nothing. `benches/compare.py --help` has more inputs.
compare: build
	@test -n '$(A)' -a -n '$(B)' || { echo 'make compare A=first-tree B=next-tree'; exit 2; }
	@benches/compare.py --program $(PROGRAM) --rounds $(ROUNDS) $(COMPARE_OPTIONS) trees '$(A)' '$(B)'

# In the profile of the tests, so that nothing but the measurement is compiled. STEPS=8 needs 15 GB of disk.
scale:
	@tests/setup.sh build
	$(CARGO) test --release --locked --bench scale -- --steps $(STEPS) $(SCALE_OPTIONS)

install: build
	install -D -m 755 '$(PROGRAM)' '$(DESTDIR)$(PREFIX)/bin/keepstone'
	install -d '$(DESTDIR)$(PREFIX)/share/man/man1' '$(DESTDIR)$(PREFIX)/share/bash-completion/completions' \
		'$(DESTDIR)$(PREFIX)/share/zsh/site-functions' '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d'
	'$(PROGRAM)' man '$(DESTDIR)$(PREFIX)/share/man/man1'
	'$(PROGRAM)' completions bash > '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/keepstone'
	'$(PROGRAM)' completions zsh > '$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_keepstone'
	'$(PROGRAM)' completions fish > '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/keepstone.fish'

clean:
	$(CARGO) clean
