/* CUDA kernels: a thread for each pixel of the network's input, and one for each label.
 *
 * 'edgeseg build' compiles this file with nvcc for the GPU that is there:
 *
 *   nvcc -cubin -arch=sm_87 -O3 -fmad=false pixels.cu -o pixels.cubin
 */

#include "pixels.cuh"

KERNEL void edgeseg_prepare(const PrepareJob job)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < job.network_width && y < job.network_height) prepare_pixel(&job, y, x);
}

KERNEL void edgeseg_decode(const DecodeJob job)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < job.out_width && y < job.out_height) decode_pixel(&job, blockIdx.z, y, x);
}
