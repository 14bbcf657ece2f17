# nextd. `make help` tells the targets. One binary, build/nextd; everything made lands in build/.

BUILD   ?= build
CC      ?= gcc
PREFIX  ?= /usr/local
DESTDIR ?=
OPT     ?= -O2 -g
VERSION := $(shell cat VERSION)

PKGS     := libmicrohttpd libuv jansson gnutls libpcre2-8 libsystemd inih
PKG_CFLAGS := $(if $(PKGS),$(shell pkg-config --cflags $(PKGS)))
PKG_LIBS   := $(if $(PKGS),$(shell pkg-config --libs $(PKGS)))
CPPFLAGS += -I. -D_GNU_SOURCE -DNEXTD_VERSION='"$(VERSION)"' $(PKG_CFLAGS)
# The processor that is built for, x86_64 or aarch64, and its own: hardening, and which files *_<isa>.c hold its instruction sets.
ARCH           := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
HARDEN_x86_64  := -fcf-protection
HARDEN_aarch64 := -mbranch-protection=standard
ISAS_x86_64    := avx2 avxvnni avx512
ISAS_aarch64   := neon
FOREIGN        := $(foreach isa,$(filter-out $(ISAS_$(ARCH)),$(ISAS_x86_64) $(ISAS_aarch64)),%_$(isa).c)
# -ffp-contract=off: every fma is written out, or the bits would depend on the compiler's taste (engine/numerics/numerics.h).
CFLAGS   += -std=c11 $(OPT) -Wall -Wextra -Wshadow -Werror -ffp-contract=off -fno-strict-aliasing -fvisibility=hidden \
            -fstack-protector-strong -fstack-clash-protection $(HARDEN_$(ARCH)) -fPIE -pthread $(SAN)
LDFLAGS  += -pie -Wl,-z,relro,-z,now -pthread $(SAN)
# libunistring has no file for pkg-config.
LDLIBS   += $(PKG_LIBS) -lunistring -lm

ENGINE_SRC := $(filter-out $(FOREIGN),$(wildcard engine/*.c engine/numerics/*.c engine/text/*.c engine/sched/*.c engine/model/*.c \
                engine/sample/*.c engine/backend/*.c engine/backend/cpu/*.c engine/backend/cuda/repack.c))
SERVER_SRC := $(filter-out server/main.c,$(wildcard server/*.c server/chat/*.c))
ENGINE_OBJ := $(ENGINE_SRC:%.c=$(BUILD)/%.o)
SERVER_OBJ := $(SERVER_SRC:%.c=$(BUILD)/%.o)
# A unit test is one program: tests/<dir of the tested file>/test_<name>.c, linked with everything but main.c.
TEST_SRC   := $(shell find tests/engine tests/server -name 'test_*.c' 2>/dev/null)
TESTS      := $(TEST_SRC:%.c=$(BUILD)/%)
# Whole models under a sanitizer take too long to be of use; the toy model goes the same ways.
MODEL_TESTS := test_invariance_ test_fidelity
TSAN_SRC   := $(foreach t,$(wildcard tests/engine/test_*.c tests/engine/backend/test_*.c tests/engine/backend/cpu/test_*.c tests/server/test_*.c \
                tests/server/chat/test_*.c),$(if $(strip $(foreach m,$(MODEL_TESTS),$(findstring $m,$t))),,$t))
# What the tests of whole backends share.
BACKEND_MATRIX := $(patsubst %,$(BUILD)/tests/engine/backend/%.o,backend_matrix cpu/cpu_probe)
FUZZ_SRC   := $(wildcard tests/fuzz/fuzz_*.c)
FUZZERS    := $(FUZZ_SRC:%.c=$(BUILD)/%)
# A program each, but for what they share.
BENCH_LIB  := bench/limits.c bench/workload.c
BENCH      := $(patsubst %.c,$(BUILD)/%,$(filter-out $(BENCH_LIB),$(wildcard bench/*.c)))

all: $(BUILD)/nextd

include cuda.mk

# Kernels: one file per instruction set with its own flags, chosen at run time.
$(BUILD)/engine/%_avx2.o:   ISA := -mavx2 -mfma -mf16c
$(BUILD)/engine/%_avxvnni.o $(BUILD)/tests/engine/%_avxvnni.o: ISA := -mavx2 -mfma -mf16c -mavxvnni
$(BUILD)/engine/%_avx512.o $(BUILD)/tests/engine/%_avx512.o: ISA := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
$(BUILD)/engine/%_neon.o:   ISA := -march=armv8.2-a+dotprod
$(BUILD)/engine/backend/%.o $(BUILD)/engine/numerics/%.o $(BUILD)/engine/sample/%.o: OPT := -O3 -g
# The unrolled kernels take clang minutes to instrument, and no fuzzer reaches them: the fuzz build says KERNEL_SAN=-fno-sanitize=all.
$(BUILD)/engine/backend/cpu/%.o: KERNEL := $(KERNEL_SAN)

$(BUILD)/%.o: %.c VERSION
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(ISA) $(KERNEL) -MMD -MP -c $< -o $@

$(BUILD)/libnextd.a: $(ENGINE_OBJ) $(SERVER_OBJ)
	@rm -f $@
	ar rcs $@ $^

# Objects of the CUDA backend are named one by one: the reference to it is weak, and would take nothing from an archive.
$(BUILD)/nextd: $(BUILD)/server/main.o $(CUDA_HOST_OBJ) $(CUDA_OBJ) $(BUILD)/libnextd.a
	$(CC) $(LDFLAGS) $^ $(LDLIBS) $(CUDA_LIBS) -o $@
	$(CUDA_NOTE)

# What the tests of the whole engine share.
$(filter $(BUILD)/tests/engine/test_%,$(TESTS)): $(patsubst %,$(BUILD)/tests/engine/%.o,toy_runner matrix model_invariance)
$(BUILD)/tests/engine/backend/cpu/test_cpu $(BUILD)/cross/backend/cpu/test_cpu: $(BACKEND_MATRIX)
# Scalar dots under the flags of the kernels.
DOTS := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(FOREIGN),$(wildcard tests/engine/numerics/dots_*.c)))
$(DOTS): OPT := -O3 -g
$(BUILD)/tests/engine/numerics/test_numerics: $(DOTS)
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/libnextd.a
	$(CC) $(LDFLAGS) $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -lcmocka -o $@

# Fuzzers are built by clang in a build directory of their own: make BUILD=build/fuzz CC=clang SAN=... KERNEL_SAN=-fno-sanitize=all fuzzers
fuzzers: $(FUZZERS)
$(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(BUILD)/libnextd.a
	$(CC) $(LDFLAGS) -fsanitize=fuzzer $^ $(LDLIBS) -o $@

tests: $(TESTS)

# Programs that measure; scripts/bench drives them. Like tests they may look inside the engine.
bench-tools: $(BENCH)
$(BUILD)/bench/%: $(BUILD)/bench/%.o $(BENCH_LIB:%.c=$(BUILD)/%.o) $(BUILD)/libnextd.a
	$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# Where a step's time goes. The machine should be quiet; docs/cpu.md reads such tables.
MODEL   ?= $(firstword $(wildcard models/smollm2*.gguf $(or $(NEXTD_CACHE),$(HOME)/.cache/nextd)/smollm2*.gguf))
PROFILE ?=
profile: $(BUILD)/bench/profile
	@[ -n "$(MODEL)" ] || { echo 'make profile MODEL=file.gguf; scripts/get-model fetches one' >&2; exit 1; }
	$(BUILD)/bench/profile $(PROFILE) $(MODEL)

# What a step should cost on GPUs that nobody has run it on: a model, from counts of nvcc's PTX (make paper-counts, cuda.mk) and devices' constants.
paper:
	@python3 bench/paper.py
paper-docs:
	python3 bench/paper.py --write
.PHONY: paper paper-docs

test: tests
	scripts/run-tests $(BUILD)/tests

# The same tests under sanitizers, each in a build directory of its own. TSan runs what has threads: the engine and the worker pool.
# -Wno-error: instrumented code makes the compiler's flow warnings guess; the normal build is the judge of warnings.
# Both run the CUDA kernels, too, on the emulated device, which tells the sanitizers about its threads.
asan:
	$(MAKE) BUILD=build/asan OPT="-O1 -g" SAN="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -Wno-error" tests \
	  $(CUDA_KERNEL_TESTS:%=build/asan/%)
	scripts/run-tests build/asan $(MODEL_TESTS:%=-%) $(TEST_NAMES)
tsan:
	$(MAKE) BUILD=build/tsan OPT="-O1 -g" SAN="-fsanitize=thread -Wno-error" $(patsubst %.c,build/tsan/%,$(TSAN_SRC)) \
	  $(CUDA_KERNEL_TESTS:%=build/tsan/%)
	scripts/run-tests build/tsan $(MODEL_TESTS:%=-%) $(TEST_NAMES)

# The kernels and whole tiny models for 64-bit Arm, linked statically and without a library, so that any x86 machine with Debian's cross compiler and
# qemu-user can run them: make BUILD=build/neon CC=aarch64-linux-gnu-gcc PKGS= neon-tests (scripts/check neon).
CROSS_SRC   := $(filter engine/numerics/% engine/backend/% engine/model/% engine/err.c,$(ENGINE_SRC))
CROSS_OBJ   := $(patsubst %.c,$(BUILD)/%.o,$(filter-out engine/model/sha256.c,$(CROSS_SRC)) tests/cross/sha256.c)
CROSS_TESTS := $(addprefix $(BUILD)/cross/,numerics/test_numerics numerics/test_rows backend/cpu/test_cpu backend/cpu/test_lanes \
                 backend/cpu/test_pack backend/test_pool model/test_invariance)
neon-tests: CPPFLAGS += -Itests/cross -DDEVICE_THAT_MUST_RUN='"cpu:neon"'
neon-tests: $(CROSS_TESTS)
$(BUILD)/cross/%: $(BUILD)/tests/engine/%.o $(CROSS_OBJ)
	@mkdir -p $(@D)
	$(CC) -static -pthread $^ -lm -o $@

check:
	./scripts/check
check-full:
	./scripts/check --full

install: $(BUILD)/nextd
	install -D -m 755 $(BUILD)/nextd $(DESTDIR)$(PREFIX)/bin/nextd
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/nextd config/nextd.conf config/nextd-cuda.conf
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system config/nextd.service config/nextd.socket
	sed -i 's|/usr/local/bin/nextd|$(PREFIX)/bin/nextd|' $(DESTDIR)$(PREFIX)/lib/systemd/system/nextd.service

clean:
	rm -rf $(BUILD)

help:
	@echo 'make              build/nextd, optimised; kernels for each instruction set are chosen at run time'
	@echo 'make check        everything that must hold, with its own set-up (scripts/check)'
	@echo 'make check-full   the same with the long matrices'
	@echo 'make test         the unit tests alone'
	@echo 'make asan, tsan   the unit tests under AddressSanitizer + UBSan, the threaded ones under ThreadSanitizer'
	@echo 'make neon-tests   BUILD=build/neon CC=aarch64-linux-gnu-gcc PKGS=: tests of the kernels for 64-bit Arm, for qemu-aarch64'
	@echo 'make fuzzers      BUILD=build/fuzz CC=clang SAN=-fsanitize=fuzzer-no-link,address,undefined KERNEL_SAN=-fno-sanitize=all'
	@echo 'make bench-tools  the programs that scripts/bench measures with'
	@echo 'make profile      MODEL=file.gguf: what each operation of a step costs, against the measured limits (PROFILE="-t 2 -c 160")'
	@echo 'make paper        expected times on GPUs, from counts and constants; paper-docs writes docs/paper.md, paper-counts (nvcc) counts again'
	@echo 'make check-cuda   the CUDA backend on an emulated device: its kernels by g++, no GPU needed'
	@echo 'make gpu-check    on a machine with a GPU: its bits against the CPU, and its speed; writes docs/hardware/<device>.log'
	@echo 'make check-ptx    the same tests with what nvcc makes of the kernels, in an interpreter of PTX; no GPU needed'
	@echo 'make check-cuda-long   all of that and Qwen for every architecture; every barrier of the kernels left out in turn'
	@echo 'make build/cuda-emulated/nextd   the daemon on that device: EMULATOR_* in tests/cuda/emulator/emulator.h'
	@echo 'make cuda-objects the CUDA kernels for all architectures that nvcc knows; cuda-ptx: as PTX'
	@echo 'make install      DESTDIR= PREFIX=/usr/local'
	@echo 'make clean'

-include $(shell find $(BUILD) -type f -name '*.d' 2>/dev/null)
.PHONY: all tests test neon-tests bench-tools profile asan tsan fuzzers check check-full install clean help
.SECONDARY:
