/* pixels.cu without a GPU: its threads one after the other.
 *
 *   cc -std=c11 -O2 -ffp-contract=off -fPIC -shared tests/native/pixels_on_cpu.c -o pixels.so -lm
 */

typedef struct {
    unsigned x, y, z;
} Index;

static _Thread_local Index blockIdx, blockDim, threadIdx;

#include "../../edgeseg/runtime/pixels.cu"

#define EACH(index, end)                                  \
    for (index.z = 0; index.z < end.z; index.z++)         \
        for (index.y = 0; index.y < end.y; index.y++)     \
            for (index.x = 0; index.x < end.x; index.x++)

void run_prepare(const PrepareJob *job, Index grid, Index block)
{
    blockDim = block;
    EACH(blockIdx, grid) EACH(threadIdx, block) edgeseg_prepare(*job);
}

void run_decode(const DecodeJob *job, Index grid, Index block)
{
    blockDim = block;
    EACH(blockIdx, grid) EACH(threadIdx, block) edgeseg_decode(*job);
}

int job_size(int decode) { return decode ? sizeof(DecodeJob) : sizeof(PrepareJob); }
