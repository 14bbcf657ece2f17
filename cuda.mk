# cuda.mk: the CUDA compiler, and what it makes of engine/backend/cuda/*.cu. Included by the Makefile; without nvcc all of it stays empty.
#
# nvcc is taken from CUDA_HOME, PATH, an active venv that has NVIDIA's wheels, or where scripts/get-cuda put it. A toolkit keeps its libraries in
# lib64, lib, targets/<arch>/lib or, Debian's, lib/<arch>-linux-gnu; nvcc on PATH may be a wrapper, so the toolkit's root is asked of nvcc itself.
# Debian's does not know it: it lies in /usr.

# A cross build has no use for this machine's toolkit.
ifeq ($(ARCH) $(origin NVCC),$(shell uname -m) undefined)
NVCC := $(firstword $(wildcard $(CUDA_HOME:%=%/bin/nvcc)) $(shell command -v nvcc 2> /dev/null) \
          $(wildcard $(VIRTUAL_ENV:%=%/lib/python3*/site-packages/nvidia/*/bin/nvcc) \
             $(or $(NEXTD_CACHE),$(HOME)/.cache/nextd)/cuda/bin/nvcc models/cache/cuda/bin/nvcc))
endif

CUDA_SRC := $(wildcard engine/backend/cuda/*.cu)
ifneq ($(NVCC),)
CUDA_TOP   := $(realpath $(or $(shell $(NVCC) --dryrun none.cu 2>&1 | sed -n 's/^\#$$ TOP=//p'),$(dir $(NVCC))..))
CUDA_LIB   := $(patsubst %/,%,$(dir $(firstword $(wildcard $(foreach d,lib64 lib targets/$(ARCH)-linux/lib lib/$(ARCH)-linux-gnu, \
                $(CUDA_TOP)/$(d)/libcudart_static.a)))))
CUDA_ARCHS := $(filter $(subst sm_,,$(shell $(NVCC) --list-gpu-code)),80 90 100 120)
$(if $(CUDA_ARCHS),,$(error $(NVCC) knows none of the GPUs that nextd has code for: CUDA 11.8 or newer is needed, or NVCC= for the CPU alone))
$(if $(CUDA_LIB),,$(error $(NVCC) has no libcudart_static.a in $(CUDA_TOP): complete the toolkit, or NVCC= for the CPU alone))
# What a program that holds kernels is compiled and linked with. The runtime is static: the program starts where there is no driver.
CUDA_CPPFLAGS := -isystem $(CUDA_TOP)/include
CUDA_LIBS     := -L$(CUDA_LIB) -lcudart_static -ldl -lrt -lpthread -lstdc++
CUDA_OBJ      := $(CUDA_SRC:%.cu=$(BUILD)/%.o)
CUDA_HOST_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(ENGINE_SRC),$(wildcard engine/backend/cuda/*.c)))
$(CUDA_HOST_OBJ): CPPFLAGS += $(CUDA_CPPFLAGS)
CUDA_PTX      := $(foreach a,$(CUDA_ARCHS),$(CUDA_SRC:%.cu=$(BUILD)/%.sm_$(a).ptx))
else
CUDA_NOTE     := @echo 'no nvcc in CUDA_HOME, PATH or a venv, and scripts/get-cuda was not run: nextd is built for the CPU alone'
endif

# The order of operations is the source's: no contraction, denormals kept, division and square root rounded exactly. The defaults are written out
# because the bits depend on them.
NVCC_NUMERICS := -fmad=false --ftz=false -prec-div=true -prec-sqrt=true
NVCC_FLAGS    := -O3 $(NVCC_NUMERICS) -std=c++17 -I. -Xcompiler -fPIE,-Wall,-Wextra,-ffp-contract=off,-fvisibility=hidden
NVCC_CODE     := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_80,code=compute_80

# ptxas reports registers and spills of every kernel and architecture; the report is kept, and shown when something was spilled. The PTX on the way to
# each object is kept, too: what is interpreted is what ptxas got.
CUDA_KERNEL = $(BUILD)/engine/backend/cuda/$*
$(BUILD)/engine/backend/cuda/%.o $(foreach a,$(CUDA_ARCHS),$(BUILD)/engine/backend/cuda/%.sm_$(a).ptx): engine/backend/cuda/%.cu
	@rm -rf $(CUDA_KERNEL).keep && mkdir -p $(CUDA_KERNEL).keep
	$(NVCC) $(NVCC_FLAGS) $(NVCC_CODE) -Xptxas -v -MMD -MP -MF $(CUDA_KERNEL).d --keep --keep-dir $(CUDA_KERNEL).keep -c $< -o $(CUDA_KERNEL).o \
	  2> $(CUDA_KERNEL).ptxas || { cat $(CUDA_KERNEL).ptxas >&2; exit 1; }
	@grep -v -E "^ptxas info|^ +[0-9]+ bytes stack frame|^$$" $(CUDA_KERNEL).ptxas >&2 || true
	@! grep -B 1 -E '[1-9][0-9]* bytes spill' $(CUDA_KERNEL).ptxas >&2 || { echo '$<: registers are spilled' >&2; rm -f $(CUDA_KERNEL).o; exit 1; }
	@for a in $(CUDA_ARCHS); do mv $(CUDA_KERNEL).keep/$*.compute_$$a.ptx $(CUDA_KERNEL).sm_$$a.ptx; done && rm -r $(CUDA_KERNEL).keep

# PTX alone, of the tests' kernels. One rule per architecture: a pattern has one stem.
define ptx_rule
$$(BUILD)/tests/%.sm_$(1).ptx: tests/%.cu
	@mkdir -p $$(@D)
	$$(NVCC) $$(NVCC_FLAGS) -gencode arch=compute_$(1),code=compute_$(1) -ptx -MMD -MP -MF $$@.d -MT $$@ $$< -o $$@
endef
$(foreach a,$(CUDA_ARCHS),$(eval $(call ptx_rule,$(a))))

need-nvcc:
	@[ -n '$(NVCC)' ] || { echo 'this needs nvcc: scripts/get-cuda installs one' >&2; exit 1; }
cuda-objects: need-nvcc $(CUDA_OBJ)
cuda-ptx: need-nvcc $(CUDA_OBJ) $(CUDA_PTX)
.PHONY: need-nvcc cuda-objects cuda-ptx

# ---- the emulated device ----

# The backend's C files and kernels once more, against the emulated device's <cuda_runtime_api.h> and kernel.h: the same sources by gcc and g++.
# Tests are tests/cuda/test_*.c, .cpp and .cu, a program each, linked with these, the emulator and everything else of nextd. No nvcc is needed.
CXX           ?= g++
EMULATED      := $(BUILD)/cuda-emulated
EMULATED_SRC  := $(filter-out $(ENGINE_SRC),$(wildcard engine/backend/cuda/*.c engine/backend/cuda/*.cu tests/cuda/emulator/*.cpp))
EMULATED_OBJ  := $(addprefix $(EMULATED)/,$(addsuffix .o,$(EMULATED_SRC)))
CUDA_TEST_SRC := $(wildcard tests/cuda/test_*.c tests/cuda/test_*.cpp tests/cuda/test_*.cu)
# Those of single kernels, under the sanitizers (make asan, tsan).
CUDA_KERNEL_TESTS := $(addprefix $(notdir $(EMULATED))/tests/cuda/,test_rows test_attend test_matrix)
CUDA_TESTS    := $(addprefix $(EMULATED)/,$(basename $(CUDA_TEST_SRC)))
EMULATED_CXX   = $(CXX) -std=c++17 -I. -Itests/cuda/emulator $(OPT) -Wall -Wextra -Werror -ffp-contract=off -fno-strict-aliasing -fPIE -pthread \
                 $(SAN) -MMD -MP
# fma as an instruction. No VNNI: GCC 12 mistakes the signs of byte products (tests/engine/numerics/dots.h). A local that a kernel reads before it
# wrote it holds a pattern, not luck.
EMULATED_ISA  := $(if $(filter x86_64,$(ARCH)),-mavx2 -mfma -mf16c)
$(EMULATED)/%.cu.o: EMULATED_CXX += $(EMULATED_ISA) -ftrivial-auto-var-init=pattern
$(EMULATED)/engine/%.o: OPT := -O3 -g
# The device itself is never instrumented: it tells the sanitizers what its fibers do.
$(EMULATED)/tests/cuda/emulator/%.o: EMULATED_CXX += -O3 $(EMULATED_ISA) -fno-sanitize=all $(if $(findstring address,$(SAN)),-DEMU_ASAN) \
                                                     $(if $(findstring thread,$(SAN)),-DEMU_TSAN)

$(EMULATED)/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) -Itests/cuda/emulator $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@
$(EMULATED)/%.cpp.o: %.cpp
	@mkdir -p $(@D)
	$(EMULATED_CXX) -c $< -o $@
$(EMULATED)/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(EMULATED_CXX) -x c++ -c $< -o $@
# An archive: a test of one kernel need not wait for the others.
$(EMULATED)/libemulated.a: $(EMULATED_OBJ)
	@rm -f $@
	ar rcs $@ $^
define cuda_test_rule
$(EMULATED)/$(basename $(1)): $(EMULATED)/$(1).o $$(BACKEND_MATRIX) $(EMULATED)/libemulated.a $$(BUILD)/libnextd.a
	$$(CXX) $$(LDFLAGS) $$(filter %.o,$$^) $$(filter %.a,$$^) $$(LDLIBS) -lcmocka -o $$@
endef
$(foreach t,$(CUDA_TEST_SRC),$(eval $(call cuda_test_rule,$(t))))
$(EMULATED)/tests/cuda/test_invariance: $(BUILD)/tests/engine/matrix.o $(BUILD)/tests/engine/toy_runner.o

# The daemon itself with the emulated device in place of CUDA's runtime: what clients see of a GPU, and of one that fails (tests/e2e/test_cuda.py).
$(EMULATED)/nextd: $(BUILD)/server/main.o $(EMULATED_OBJ) $(BUILD)/libnextd.a
	$(CXX) $(LDFLAGS) $^ $(LDLIBS) -o $@

# Planted bugs, which the emulated device must notice: built three ways, judged by tests/cuda/run-bugs.
BUGS := $(EMULATED)/tests/cuda/bugs
$(BUGS): $(patsubst %,$(EMULATED)/%.o,$(wildcard tests/cuda/bugs*.cu) $(wildcard tests/cuda/emulator/*.cpp))
	$(CXX) $(LDFLAGS) $^ -o $@
check-bugs: $(BUGS)
	$(MAKE) BUILD=build/cuda-asan OPT="-O1 -g" SAN="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -Wno-error" \
	  build/cuda-asan/$(notdir $(EMULATED))/tests/cuda/bugs
	$(MAKE) BUILD=build/cuda-tsan OPT="-O1 -g" SAN="-fsanitize=thread -Wno-error" build/cuda-tsan/$(notdir $(EMULATED))/tests/cuda/bugs
	tests/cuda/run-bugs $(BUGS) build/cuda-asan/$(notdir $(EMULATED))/tests/cuda/bugs build/cuda-tsan/$(notdir $(EMULATED))/tests/cuda/bugs
# Every barrier of the kernels left out in turn: their tests must notice.
CUDA_TSAN := build/cuda-tsan/$(notdir $(EMULATED))/tests/cuda
check-mutants: cuda-tests
	$(MAKE) BUILD=build/cuda-tsan OPT="-O1 -g" SAN="-fsanitize=thread -Wno-error" $(addprefix $(CUDA_TSAN)/,test_rows test_attend test_matrix test_draw)
	tests/cuda/run-mutants $(EMULATED)/tests/cuda $(CUDA_TSAN)
.PHONY: check-mutants

# The emulator's header and the toolkit's agree on every number and type that nextd uses.
check-api: need-nvcc
	@mkdir -p $(BUILD)
	$(CC) -std=c11 -Wall -Wextra -Werror -Itests/cuda/emulator tests/cuda/api.c -o $(BUILD)/api-emulated
	$(CC) -std=c11 -Wall -Wextra -Werror $(CUDA_CPPFLAGS) tests/cuda/api.c -o $(BUILD)/api-cuda
	$(BUILD)/api-emulated > $(BUILD)/api-emulated.txt
	$(BUILD)/api-cuda | diff $(BUILD)/api-emulated.txt -
	@echo '1 passed, 0 failed'
.PHONY: check-bugs check-api

$(EMULATED)/tests/cuda/test_walk: $(patsubst %,$(EMULATED)/tests/gpu/%.c.o,random_model cases walk peek_cpu peek_cuda)
cuda-tests: $(CUDA_TESTS) $(EMULATED)/gpu_check $(EMULATED)/nextd
# Every kernel and the whole backend on the emulated device: no GPU, no CUDA.
check-cuda: cuda-tests
	$(MAKE) check-bugs
	$(EMULATED)/gpu_check --dir $(BUILD) --write $(BUILD)/golden.txt
	diff tests/gpu/golden.txt $(BUILD)/golden.txt
	scripts/gpu-check --emulated
	TEST_TIMEOUT_S=300 scripts/run-tests $(EMULATED)/tests/cuda
.PHONY: cuda-tests check-cuda

# ---- nvcc's PTX in an interpreter ----

# The interpreter's own tests (test_micro on kernels with known answers, test_gates on the text of every kernel), and the tests of the backend that
# run on the emulated device once more, with nvcc's PTX in the place of g++'s kernels (tests/cuda/ptx/device.cpp).
PTX        := $(EMULATED)/tests/cuda/ptx
PTX_OBJ    := $(patsubst %,$(EMULATED)/%.o,$(filter-out %/device.cpp $(wildcard tests/cuda/ptx/test_*.cpp),$(wildcard tests/cuda/ptx/*.cpp)))
PTX_DEVICE := test_rows test_attend test_matrix test_draw test_cuda test_smollm2
PTX_TESTS  := $(patsubst tests/cuda/ptx/%.cpp,$(PTX)/%,$(wildcard tests/cuda/ptx/test_*.cpp)) $(PTX_DEVICE:%=$(PTX)/device/%)
$(PTX)/%.o: OPT := -O3 -g
$(PTX)/%.cpp.o: EMULATED_CXX += $(EMULATED_ISA)
$(PTX)/test_%: $(PTX)/test_%.cpp.o $(PTX_OBJ)
	$(CXX) $(LDFLAGS) $(filter %.o,$^) -lcmocka -o $@
# A step of any shape, for counting; see the program. -rdynamic: a kernel is found by its name.
$(PTX)/ptx_counts: $(PTX)/ptx_counts.c.o $(PTX)/device.cpp.o $(PTX_OBJ) $(EMULATED)/libemulated.a $(BUILD)/libnextd.a
	$(CXX) $(LDFLAGS) -rdynamic $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -ldl -o $@
ptx-counts: $(PTX)/ptx_counts cuda-ptx
# What bench/paper.py computes with: counts of the kernels' PTX, and their registers by ptxas's reports.
paper-counts: ptx-counts cuda-objects
	python3 bench/paper.py --count $(BUILD)
.PHONY: paper-counts
$(PTX)/device/%: $(EMULATED)/tests/cuda/%.c.o $(PTX)/device.cpp.o $(PTX_OBJ) $(BACKEND_MATRIX) $(EMULATED)/libemulated.a $(BUILD)/libnextd.a
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS) -rdynamic $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -lcmocka -ldl -o $@

PTX_MICRO := $(foreach a,$(CUDA_ARCHS),$(BUILD)/tests/cuda/ptx/micro.sm_$(a).ptx)
ptx-tests: $(PTX_TESTS) $(PTX)/ptx_counts cuda-ptx $(PTX_MICRO)
# What nvcc made of the kernels: 0 spills (the objects' rule), no float operation without explicit rounding, the bits of the CPU. No GPU needed.
check-ptx: ptx-tests
	tests/cuda/run-ptx $(BUILD) $(PTX) $(CUDA_ARCHS)
# What takes too long for every day: every barrier left out in turn, everything with the PTX of every architecture.
check-cuda-long: check-mutants ptx-tests $(PTX)/device/test_qwen
	tests/cuda/run-ptx --all $(BUILD) $(PTX) $(CUDA_ARCHS)
.PHONY: ptx-counts ptx-tests check-ptx check-cuda-long

# ---- a real GPU ----

# gpu_check needs no library but CUDA's, so that it can be built where there is a GPU and little else; scripts/gpu-check does so, or runs one that was
# brought along. The same program on the emulated device shows that it works, and writes what the CPU says.
GPU_SRC    := $(wildcard tests/gpu/*.c)
GPU_ENGINE := $(patsubst %.c,$(BUILD)/%.o,$(filter-out engine/model/sha256.c, \
                $(filter engine/numerics/% engine/backend/% engine/model/% engine/sample/% engine/err.c,$(ENGINE_SRC)))) $(BUILD)/tests/cross/sha256.o
$(BUILD)/tests/gpu/%.o: CPPFLAGS += $(CUDA_CPPFLAGS)
$(BUILD)/gpu_check: $(GPU_SRC:%.c=$(BUILD)/%.o) $(CUDA_HOST_OBJ) $(CUDA_OBJ) $(GPU_ENGINE)
	$(CC) $(LDFLAGS) $^ $(CUDA_LIBS) -lm -o $@
$(EMULATED)/gpu_check: $(GPU_SRC:%=$(EMULATED)/%.o) $(EMULATED_OBJ) $(GPU_ENGINE)
	$(CXX) $(LDFLAGS) $^ -lm -o $@
gpu-check:
	scripts/gpu-check
gpu-golden: $(EMULATED)/gpu_check
	$< --write tests/gpu/golden.txt
.PHONY: gpu-check gpu-golden
