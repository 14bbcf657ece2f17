/* micro.h: launches a kernel of micro.cu with arguments by their values. */
#ifndef NEXTD_TEST_PTX_MICRO_H
#define NEXTD_TEST_PTX_MICRO_H

#include "tests/cuda/ptx/ptx.h"

/* Throws ptx::error. */
template <class... A>
inline void launch(const ptx::module &m, const char *kernel, unsigned n_blocks, unsigned n_threads, size_t shared_bytes,
                   const ptx::launch_options &options, A... a)
{
    m.launch(kernel, {n_blocks, 1, 1}, {n_threads, 1, 1}, shared_bytes, {ptx::argument{&a, sizeof a}...}, options);
}

#endif
