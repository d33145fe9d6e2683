# `make` says what there is. Set-up needs root once; everything else is done without.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# Seconds for each fuzz target, and for random sequences of operations.
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600

export PATH := $(HOME)/.cargo/bin:$(PATH)
target := $(or $(CARGO_TARGET_DIR),target)
program := $(target)/release/overcoat

.PHONY: help all demo test boots check fuzz soak tsan bench install uninstall clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo      build all that machines boot from the network, without root rights'
	@echo '               (BOOT=1: and boot it in QEMU)'
	@echo 'make test      set up a lab and run all tests'
	@echo 'make boots     boot machines from the network, in QEMU: minutes'
	@echo 'make check     formatting, clippy and rustdoc, warnings as errors'
	@echo 'make fuzz      fuzz the image readers, $(FUZZ_SECONDS) s each (FUZZ_SECONDS=)'
	@echo 'make soak      random operations against the model and the kernel (SOAK_SECONDS=$(SOAK_SECONDS))'
	@echo 'make tsan      the tests with many threads under ThreadSanitizer'
	@echo 'make bench     compare with other tools (root)'
	@echo 'make all       build $(program)'
	@echo 'make install   into PREFIX=$(PREFIX)'
	@echo 'make clean     remove what was built'

all: $(program)

# cargo knows best what is out of date.
.PHONY: $(program)
$(program):
	@.ci/machine.sh build
	$(CARGO) build --release --locked --package overcoat

demo:
	@.ci/machine.sh build demo $(if $(BOOT),boots)
	$(CARGO) build --release --locked --package overcoat
	@examples/demo.sh $(program) $(if $(BOOT),boot)

test:
	@.ci/machine.sh build demo test
	$(CARGO) test --workspace --locked --no-fail-fast

boots:
	@.ci/machine.sh build demo test boots
	$(CARGO) test --locked --package overcoat --test boot

check:
	@.ci/machine.sh build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --package overcoat --test boot --locked -- -D warnings
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
	$(CARGO) build --release --locked --package overcoat
	benches/compare.sh

install: $(program)
	install -D -m 0755 $(program) $(DESTDIR)$(PREFIX)/bin/overcoat

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/overcoat

clean:
	rm -rf build
	$(CARGO) clean
	rm -rf fs-model/fuzz/target fs-model/fuzz/artifacts
