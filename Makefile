# `make` prints the targets. Only the set-up of a machine needs root.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# The only folder in which mount(8) looks for mount helpers.
MOUNT_HELPERS ?= $(if $(shell test -L /sbin && echo merged),/usr/sbin,/sbin)
# Seconds for each fuzz target, and for `make soak`.
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600

export PATH := $(HOME)/.cargo/bin:$(PATH)
target := $(or $(CARGO_TARGET_DIR),target)
program := $(target)/release/overcoat

.PHONY: help all demo test field boots check fuzz soak tsan bench install uninstall deb static release test-package containers clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo      build a base, overlays, a kernel and an initrd, without root'
	@echo '               (BOOT=1: also boot them in QEMU)'
	@echo 'make test      prepare the machine and run the tests'
	@echo 'make check     formatting, clippy and rustdoc, with warnings as errors'
	@echo 'make fuzz      fuzz the image readers, each for FUZZ_SECONDS=$(FUZZ_SECONDS)'
	@echo 'make soak      random operations, compared with a model and the kernel (SOAK_SECONDS=$(SOAK_SECONDS))'
	@echo 'make tsan      the threading tests under ThreadSanitizer'
	@echo 'make boots     boot machines in QEMU; takes minutes'
	@echo 'make field     install dozens of packages on different hosts, as root; takes minutes'
	@echo 'make bench     compare with other tools, as root'
	@echo 'make all       build $(program)'
	@echo 'make install   install into PREFIX=$(PREFIX)'
	@echo 'make uninstall remove the installed files'
	@echo 'make deb       build a Debian package in build/release'
	@echo 'make static    build a program without shared libraries in build/release'
	@echo 'make release   both, and SHA256SUMS'
	@echo 'make test-package  install, use and purge the files of a release; takes minutes'
	@echo 'make containers    run overcoat in containers of podman, as root'
	@echo 'make clean     remove all build results'

all: $(program)

# cargo decides whether the program is out of date.
.PHONY: $(program)
$(program):
	@.ci/machine.sh build
	@.ci/release.sh

demo:
	@.ci/machine.sh build demo $(if $(BOOT),boots)
	@.ci/release.sh
	@examples/demo.sh $(program) $(if $(BOOT),boot)

test:
	@.ci/machine.sh build demo test
	$(CARGO) test --workspace --locked --no-fail-fast

field:
	@.ci/machine.sh build demo test
	@tests/field/set-up.sh
	$(CARGO) test --workspace --locked --test field -- --nocapture

boots:
	@.ci/machine.sh build demo test boots
	$(CARGO) test --workspace --locked --test boot

containers:
	@.ci/machine.sh build demo test containers
	$(CARGO) test --workspace --locked --test containers -- --test-threads 1

check:
	@.ci/machine.sh build
	$(CARGO) fmt --all --check
	@# rustfmt does not check the width of comments.
	@LC_ALL=C.UTF-8 grep -rnP --include='*.rs' --exclude-dir=target '^(?=.{101})\s*//' .; \
		case $$? in \
		0) echo 'These comments have more than 100 columns.' >&2; exit 1 ;; \
		1) ;; \
		*) exit 2 ;; \
		esac
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --workspace --locked --test boot --test field --test containers -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked --document-private-items

fuzz:
	@.ci/machine.sh build fuzz
	.ci/fuzz.sh $(FUZZ_SECONDS)

soak:
	@.ci/machine.sh build demo test
	tests/soak.sh $(SOAK_SECONDS)

tsan:
	@.ci/machine.sh build
	tests/tsan.sh

bench:
	@.ci/machine.sh build demo test
	@.ci/release.sh
	benches/compare.sh

# Completions, one file for each shell, and manual pages.
share := $(DESTDIR)$(PREFIX)/share
bash_completion := $(share)/bash-completion/completions/overcoat
zsh_completion := $(share)/zsh/site-functions/_overcoat
fish_completion := $(share)/fish/vendor_completions.d/overcoat.fish
manual := $(share)/man/man1

install: $(program)
	install -D -m 0755 $(program) $(DESTDIR)$(PREFIX)/bin/overcoat
	install -d $(dir $(bash_completion) $(zsh_completion) $(fish_completion)) $(manual)
	$(program) completions bash >$(bash_completion)
	$(program) completions zsh >$(zsh_completion)
	$(program) completions fish >$(fish_completion)
	$(program) man --dir $(manual)
	chmod 0644 $(bash_completion) $(zsh_completion) $(fish_completion) $(manual)/overcoat.1 $(manual)/overcoat-*.1
	@{ mkdir -p $(DESTDIR)$(MOUNT_HELPERS) && \
		ln -sf $(PREFIX)/bin/overcoat $(DESTDIR)$(MOUNT_HELPERS)/mount.fuse.overcoat; } 2>/dev/null || \
		echo 'mount.fuse.overcoat is not installed, because $(DESTDIR)$(MOUNT_HELPERS) is not writable; install it as root'

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/overcoat $(bash_completion) $(zsh_completion) $(fish_completion)
	rm -f $(manual)/overcoat.1 $(manual)/overcoat-*.1
	@rm -f $(DESTDIR)$(MOUNT_HELPERS)/mount.fuse.overcoat 2>/dev/null || \
		echo '$(DESTDIR)$(MOUNT_HELPERS)/mount.fuse.overcoat is not removed: only root can remove it'

# Releases: the files have the same bytes on each machine with the same versions of Rust and Debian.
releases := build/release
version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
host = $(shell uname -m)

deb:
	@.ci/machine.sh build deb
	@[ "$$(dpkg-parsechangelog --show-field Version)" = '$(version)' ] || \
		{ echo 'debian/changelog lacks an entry for version $(version)' >&2; exit 1; }
	rm -f $(releases)/overcoat_*.deb
	mkdir -p $(releases)
	debian/rules binary OUTPUT=$(releases)
	debian/rules clean

static:
	@.ci/machine.sh build
	@.ci/release.sh --static
	mkdir -p $(releases)
	strip -o $(releases)/overcoat-$(version)-$(host) $(target)/$(host)-unknown-linux-gnu/release/overcoat

release: deb static
	cd $(releases) && sha256sum overcoat_*.deb overcoat-$(version)-$(host) >SHA256SUMS

test-package: demo release
	@.ci/machine.sh boots deb containers
	tests/package.sh $(program) $(releases)/overcoat_$(version)_*.deb \
		$(releases)/overcoat-$(version)-$(host)

clean:
	rm -rf build
	$(CARGO) clean
	rm -rf fs-model/fuzz/target fs-model/fuzz/artifacts
