// The product alone, for a head and for tests; and advice to the kernel about large pages.
#include "matvec.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

using namespace wishbone;

extern "C" {

// x [batch, columns] -> out [batch, rows]. `whole` is room for 8 * columns bytes per thread.
void wishbone_matvec(const Matrix *m, int64_t batch, const float *x, float *out, int8_t *whole,
                     int64_t threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int8_t *own = whole + thread_number() * 8 * m->columns;
        times_share(*m, thread_number(), thread_count(), batch, x, m->columns, out, m->rows, own);
    }
}

// Ask for pages of 2 MiB: a model is read from end to end, and small pages make it wait.
int wishbone_large_pages(void *start, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 2 << 20;
    uintptr_t from = ((uintptr_t)start + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)start + bytes) / page * page;
    return to > from ? madvise((void *)from, to - from, MADV_HUGEPAGE) : -1;
#else
    return -1;
#endif
}

int64_t wishbone_vnni() {
#if defined(__AVX512VNNI__)
    return 1;
#else
    return 0;
#endif
}
}
