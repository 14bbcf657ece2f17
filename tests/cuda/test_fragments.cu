// test_fragments.cu: where the elements of a tile lie in a warp's registers, from a second source.
//
// The emulated device goes from lanes to elements. Here it is the other way round: the PTX ISA (fragments of mma.m16n8k16 and k32 with integer type,
// and ldmatrix) tells for a lane and the i-th of its values a row and a column; these formulas solved for (lane, i) place each element by its row and
// column. The matrices differ in every index, so that any exchange of two places changes a result.
#include <vector>

#include "emulator.h"
#include "engine/backend/cuda/device.cuh"

static int n_passed, n_failed;

static void expect(bool ok, const char *what)
{
    (ok ? n_passed : n_failed)++;
    printf("%s %d - %s\n", ok ? "ok" : "not ok", n_passed + n_failed, what);
}

static void must(cudaError_t e)
{
    if (e != cudaSuccess)
        expect(false, cudaGetErrorName(e));
}

struct place {
    int lane, i; // the i-th 8-bit (A, B) or 32-bit (C, D) value of the lane
};

// A, 16 x K, row major: groupID = lane / 4 is the row modulo 8, threadID_in_group = lane % 4 the column / 4 modulo 4.
static struct place place_a(int row, int column)
{
    return {row % 8 * 4 + column % 16 / 4, column / 16 * 8 + row / 8 * 4 + column % 4};
}
// B, K x 8: groupID is the column.
static struct place place_b(int row, int column)
{
    return {column * 4 + row % 16 / 4, row / 16 * 4 + row % 4};
}
// C and D, 16 x 8.
static struct place place_d(int row, int column)
{
    return {row % 8 * 4 + column / 2, row / 8 * 2 + column % 2};
}

__global__ void multiply(int k, const int *a, const int *b, int *d)
{
    int lane = (int)threadIdx.x, fa[4], fb[2], fd[4];
    for (int i = 0; i < 4; i++) {
        fa[i] = a[lane * 4 + i];
        fb[i % 2] = b[lane * 2 + i % 2];
        fd[i] = d[lane * 4 + i];
    }
    if (k == 32)
        dev_mma_s8_k32(fd, fa, fb);
    else
        dev_mma_s8_k16(fd, fa, fb);
    for (int i = 0; i < 4; i++)
        d[lane * 4 + i] = fd[i];
}

template <class T> static T *upload(const std::vector<T> &v)
{
    void *p = NULL;
    must(cudaMalloc(&p, v.size() * sizeof(T)));
    must(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return (T *)p;
}

static bool multiplies(int k, unsigned seed)
{
    static int8_t a[16][32], b[32][8];
    static int c[16][8];
    auto draw = [&seed] { return (int)((seed = seed * 1664525u + 1013904223u) >> 16); };
    std::vector<int8_t> ra(32 * 16), rb(32 * 8);
    std::vector<int> rd(32 * 4);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < k; j++) {
            struct place p = place_a(i, j);
            ra[(size_t)(p.lane * 16 + p.i)] = a[i][j] = (int8_t)draw();
        }
    for (int i = 0; i < k; i++)
        for (int j = 0; j < 8; j++) {
            struct place p = place_b(i, j);
            rb[(size_t)(p.lane * 8 + p.i)] = b[i][j] = (int8_t)draw();
        }
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            struct place p = place_d(i, j);
            rd[(size_t)(p.lane * 4 + p.i)] = c[i][j] = draw() * 1000 + i * 8 + j;
        }
    int8_t *da = upload(ra), *db = upload(rb);
    int *dd = upload(rd);
    LAUNCH(multiply, dim3(1), dim3(32), 0, NULL, k, (const int *)da, (const int *)db, dd);
    must(cudaMemcpy(rd.data(), dd, rd.size() * sizeof(int), cudaMemcpyDeviceToHost));
    bool same = true;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            struct place p = place_d(i, j);
            int sum = c[i][j];
            for (int l = 0; l < k; l++)
                sum += a[i][l] * b[l][j];
            same &= rd[(size_t)(p.lane * 4 + p.i)] == sum;
        }
    must(cudaFree(da));
    must(cudaFree(db));
    must(cudaFree(dd));
    return same;
}

// Four 8x8 matrices of 16-bit values, each row somewhere else in shared memory.
#define ROW_OF(j, i) (((j) * 8 + (i)) * 5 % 32)

__global__ void load(const uint16_t *in, int *out)
{
    SHARED(uint16_t, s, 32 * 24);
    int lane = (int)threadIdx.x, r[4];
    for (int k = lane; k < 32 * 24; k += 32)
        s[k] = in[k];
    __syncthreads();
    dev_ldmatrix_x4(r, s + ROW_OF(lane / 8, lane % 8) * 24);
    for (int j = 0; j < 4; j++)
        out[lane * 4 + j] = r[j];
}

static bool loads_matrices(void)
{
    std::vector<uint16_t> in(32 * 24), got(32 * 8);
    for (size_t i = 0; i < in.size(); i++)
        in[i] = (uint16_t)(i * 40503u + 7u);
    uint16_t *din = upload(in), *dout = upload(got);
    LAUNCH(load, dim3(1), dim3(32), 0, NULL, (const uint16_t *)din, (int *)dout);
    must(cudaMemcpy(got.data(), dout, got.size() * 2, cudaMemcpyDeviceToHost));
    bool same = true;
    for (int j = 0; j < 4; j++)
        for (int row = 0; row < 8; row++)
            for (int column = 0; column < 8; column++) { // lane 4 row + column / 2, register j, half column % 2
                int lane = 4 * row + column / 2;
                same &= got[(size_t)(lane * 8 + j * 2 + column % 2)] == in[(size_t)(ROW_OF(j, row) * 24 + column)];
            }
    must(cudaFree(din));
    must(cudaFree(dout));
    return same;
}

// The A fragment of a 16 x 32 tile by one ldmatrix: matrices 0..3 are rows 0-7 and 8-15 of the left half, then of the right.
__global__ void load_a(const int8_t *in, int *out)
{
    typedef int8_t row[48];
    SHARED(row, s, 16);
    int lane = (int)threadIdx.x, r[4];
    dev_cp_async16(&s[lane / 2][lane % 2 * 16], in + lane * 16);
    dev_cp_commit();
    dev_cp_wait(0);
    __syncwarp();
    dev_ldmatrix_x4(r, &s[lane % 16][lane / 16 * 16]);
    for (int j = 0; j < 4; j++)
        out[lane * 4 + j] = r[j];
}

static bool loads_fragments(void)
{
    std::vector<int8_t> in(512), got(512);
    for (size_t i = 0; i < 512; i++)
        in[i] = (int8_t)(i * 37 + i / 32);
    int8_t *din = upload(in), *dout = upload(got);
    LAUNCH(load_a, dim3(1), dim3(32), 0, NULL, (const int8_t *)din, (int *)dout);
    must(cudaMemcpy(got.data(), dout, 512, cudaMemcpyDeviceToHost));
    bool same = true;
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 32; column++) {
            struct place p = place_a(row, column);
            same &= got[(size_t)(p.lane * 16 + p.i)] == in[(size_t)(row * 32 + column)];
        }
    must(cudaFree(din));
    must(cudaFree(dout));
    return same;
}

int main(void)
{
    bool k16 = true, k32 = true;
    for (unsigned seed = 1; seed <= 8; seed++) {
        k16 &= multiplies(16, seed);
        k32 &= multiplies(32, seed);
    }
    expect(k16, "mma.m16n8k16 places elements as the PTX ISA says");
    expect(k32, "mma.m16n8k32 places elements as the PTX ISA says");
    expect(loads_matrices(), "ldmatrix gives rows to lanes as the PTX ISA says");
    expect(loads_fragments(), "ldmatrix of a tile is an A fragment");
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}
