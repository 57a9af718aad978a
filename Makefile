# SPDX-License-Identifier: Apache-2.0
# The ways into Baton. Each target sets up what it needs and is quick when nothing changed.
#   make demo       train a small hybrid model on English text, and read what it writes
#   make test       unit tests, tests of the program, Python tests
#   make build      the program build/apps/baton and its libraries
#   make lint       format, clang-tidy, include rules
#   make bench      benchmarks of the operators
#   make install    into PREFIX (/usr/local)
#   make test-long  the tests that take minutes
# TORCH_ROOT=<site-packages>/torch builds on an existing torch. BATON_BUILD names the build folder.
BATON_BUILD ?= build
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
export BATON_BUILD

.PHONY: all setup build test test-long lint bench demo install clean
all: build

setup:
	@tools/setup build python lint demo

build:
	@tools/setup build
	@tools/configure $(BATON_BUILD)
	@ninja -C $(BATON_BUILD) -j $(JOBS)

test:
	@tools/setup build python
	@tools/configure $(BATON_BUILD)
	@ninja -C $(BATON_BUILD) -j $(JOBS) all tests
	@tools/test short

test-long:
	@tools/setup build python
	@tools/configure $(BATON_BUILD)
	@ninja -C $(BATON_BUILD) -j $(JOBS) all tests
	@tools/test long

lint:
	@tools/setup build lint
	@tools/lint

bench:
	@tools/setup build
	@tools/configure $(BATON_BUILD)
	@ninja -C $(BATON_BUILD) -j $(JOBS) all benchmarks
	@tools/bench

demo: build
	@tools/setup demo
	@tools/demo

install: build
	@cmake --install $(BATON_BUILD) --prefix $(PREFIX)

clean:
	rm -rf $(BATON_BUILD) build-clang build-threads
