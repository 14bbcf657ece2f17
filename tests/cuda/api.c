/* api.c: what the emulator's <cuda_runtime_api.h> says of CUDA, as a program that either header compiles.
 *
 * It prints each number that the emulator's header defines, and checks at compile time that each function has its type. Compiled once against the
 * emulator's header and once against a toolkit's, it must say the same (make check-api). */
#include <cuda_runtime_api.h>
#include <stdio.h>

#define NUMBER(name) printf("%s %lld\n", #name, (long long)(name));
#define SAME(function, ...) \
    _Static_assert(__builtin_types_compatible_p(__typeof__(&function), cudaError_t (*)(__VA_ARGS__)), #function " has another type");
#define FIELD(name) printf("cudaDeviceProp.%s %zu\n", #name, sizeof prop.name);

SAME(cudaGetLastError, void)
SAME(cudaPeekAtLastError, void)
SAME(cudaDriverGetVersion, int *)
SAME(cudaRuntimeGetVersion, int *)
SAME(cudaGetDeviceCount, int *)
SAME(cudaSetDevice, int)
SAME(cudaGetDevice, int *)
SAME(cudaSetDeviceFlags, unsigned int)
SAME(cudaGetDeviceProperties, struct cudaDeviceProp *, int)
SAME(cudaDeviceGetAttribute, int *, enum cudaDeviceAttr, int)
SAME(cudaDeviceGetPCIBusId, char *, int, int)
SAME(cudaMemGetInfo, size_t *, size_t *)
SAME(cudaDeviceSynchronize, void)
SAME(cudaDeviceReset, void)
SAME(cudaFuncSetAttribute, const void *, enum cudaFuncAttribute, int)
SAME(cudaMalloc, void **, size_t)
SAME(cudaFree, void *)
SAME(cudaMallocHost, void **, size_t)
SAME(cudaHostAlloc, void **, size_t, unsigned int)
SAME(cudaFreeHost, void *)
SAME(cudaMemcpy, void *, const void *, size_t, enum cudaMemcpyKind)
SAME(cudaMemcpyAsync, void *, const void *, size_t, enum cudaMemcpyKind, cudaStream_t)
SAME(cudaMemcpy2DAsync, void *, size_t, const void *, size_t, size_t, size_t, enum cudaMemcpyKind, cudaStream_t)
SAME(cudaMemset, void *, int, size_t)
SAME(cudaMemsetAsync, void *, int, size_t, cudaStream_t)
SAME(cudaStreamCreate, cudaStream_t *)
SAME(cudaStreamCreateWithFlags, cudaStream_t *, unsigned int)
SAME(cudaStreamDestroy, cudaStream_t)
SAME(cudaStreamSynchronize, cudaStream_t)
SAME(cudaStreamQuery, cudaStream_t)
SAME(cudaStreamWaitEvent, cudaStream_t, cudaEvent_t, unsigned int)
SAME(cudaLaunchHostFunc, cudaStream_t, cudaHostFn_t, void *)
SAME(cudaEventCreate, cudaEvent_t *)
SAME(cudaEventCreateWithFlags, cudaEvent_t *, unsigned int)
SAME(cudaEventDestroy, cudaEvent_t)
SAME(cudaEventRecord, cudaEvent_t, cudaStream_t)
SAME(cudaEventSynchronize, cudaEvent_t)
SAME(cudaEventQuery, cudaEvent_t)
SAME(cudaEventElapsedTime, float *, cudaEvent_t, cudaEvent_t)
SAME(cudaStreamBeginCapture, cudaStream_t, enum cudaStreamCaptureMode)
SAME(cudaStreamEndCapture, cudaStream_t, cudaGraph_t *)
SAME(cudaStreamIsCapturing, cudaStream_t, enum cudaStreamCaptureStatus *)
SAME(cudaGraphGetNodes, cudaGraph_t, cudaGraphNode_t *, size_t *)
SAME(cudaGraphInstantiateWithFlags, cudaGraphExec_t *, cudaGraph_t, unsigned long long)
SAME(cudaGraphUpload, cudaGraphExec_t, cudaStream_t)
SAME(cudaGraphLaunch, cudaGraphExec_t, cudaStream_t)
SAME(cudaGraphDestroy, cudaGraph_t)
SAME(cudaGraphExecDestroy, cudaGraphExec_t)

int main(void)
{
    struct cudaDeviceProp prop;
    NUMBER(cudaSuccess) NUMBER(cudaErrorInvalidValue) NUMBER(cudaErrorMemoryAllocation) NUMBER(cudaErrorInitializationError)
    NUMBER(cudaErrorInvalidConfiguration) NUMBER(cudaErrorInvalidMemcpyDirection) NUMBER(cudaErrorInsufficientDriver)
    NUMBER(cudaErrorInvalidDeviceFunction) NUMBER(cudaErrorNoDevice) NUMBER(cudaErrorInvalidDevice) NUMBER(cudaErrorNoKernelImageForDevice)
    NUMBER(cudaErrorECCUncorrectable) NUMBER(cudaErrorInvalidResourceHandle) NUMBER(cudaErrorNotReady) NUMBER(cudaErrorIllegalAddress)
    NUMBER(cudaErrorLaunchOutOfResources) NUMBER(cudaErrorLaunchTimeout) NUMBER(cudaErrorMisalignedAddress) NUMBER(cudaErrorLaunchFailure)
    NUMBER(cudaErrorNotSupported) NUMBER(cudaErrorStreamCaptureUnsupported) NUMBER(cudaErrorStreamCaptureInvalidated)
    NUMBER(cudaErrorStreamCaptureMerge) NUMBER(cudaErrorStreamCaptureUnmatched) NUMBER(cudaErrorStreamCaptureUnjoined)
    NUMBER(cudaErrorStreamCaptureIsolation) NUMBER(cudaErrorStreamCaptureImplicit) NUMBER(cudaErrorCapturedEvent)
    NUMBER(cudaErrorStreamCaptureWrongThread) NUMBER(cudaErrorUnknown) NUMBER(cudaMemcpyHostToHost) NUMBER(cudaMemcpyHostToDevice)
    NUMBER(cudaMemcpyDeviceToHost) NUMBER(cudaMemcpyDeviceToDevice) NUMBER(cudaMemcpyDefault) NUMBER(cudaDevAttrMaxThreadsPerBlock)
    NUMBER(cudaDevAttrMaxSharedMemoryPerBlock) NUMBER(cudaDevAttrWarpSize) NUMBER(cudaDevAttrClockRate) NUMBER(cudaDevAttrMultiProcessorCount)
    NUMBER(cudaDevAttrIntegrated) NUMBER(cudaDevAttrMemoryClockRate) NUMBER(cudaDevAttrGlobalMemoryBusWidth) NUMBER(cudaDevAttrL2CacheSize)
    NUMBER(cudaDevAttrComputeCapabilityMajor) NUMBER(cudaDevAttrComputeCapabilityMinor) NUMBER(cudaDevAttrMaxSharedMemoryPerMultiprocessor)
    NUMBER(cudaDevAttrMaxSharedMemoryPerBlockOptin) NUMBER(cudaStreamCaptureModeGlobal) NUMBER(cudaStreamCaptureModeThreadLocal)
    NUMBER(cudaStreamCaptureModeRelaxed) NUMBER(cudaStreamCaptureStatusNone) NUMBER(cudaStreamCaptureStatusActive)
    NUMBER(cudaStreamCaptureStatusInvalidated) NUMBER(cudaFuncAttributeMaxDynamicSharedMemorySize)
    NUMBER(cudaFuncAttributePreferredSharedMemoryCarveout) NUMBER(cudaStreamDefault) NUMBER(cudaStreamNonBlocking) NUMBER(cudaEventDefault)
    NUMBER(cudaEventBlockingSync) NUMBER(cudaEventDisableTiming) NUMBER(cudaHostAllocDefault) NUMBER(cudaHostAllocPortable)
    NUMBER(cudaHostAllocMapped) NUMBER(cudaHostAllocWriteCombined) NUMBER(cudaDeviceScheduleAuto) NUMBER(cudaDeviceScheduleSpin)
    NUMBER(cudaDeviceScheduleYield) NUMBER(cudaDeviceScheduleBlockingSync)
    FIELD(name) FIELD(totalGlobalMem) FIELD(sharedMemPerBlock) FIELD(sharedMemPerBlockOptin) FIELD(sharedMemPerMultiprocessor)
    FIELD(regsPerBlock) FIELD(warpSize) FIELD(maxThreadsPerBlock) FIELD(maxThreadsDim) FIELD(maxGridSize) FIELD(major) FIELD(minor)
    FIELD(multiProcessorCount) FIELD(l2CacheSize) FIELD(memoryBusWidth) FIELD(integrated) FIELD(pciBusID) FIELD(pciDeviceID) FIELD(pciDomainID)
    return 0;
}
