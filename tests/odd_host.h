/* odd_host.h - a host that rounds upwards and flushes small numbers to zero: what the library computes
 * there must be the same bits, and the host must find its modes again. Include lensnet.h (with its
 * implementation) and test.h first. */
#ifndef ODD_HOST_H
#define ODD_HOST_H

#include <fenv.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#define FLUSH_BITS 0x8040u /* flush to zero, denormals are zero */
static unsigned flushing(void) { return _mm_getcsr() & FLUSH_BITS; }
static void set_flushing(unsigned bits) { _mm_setcsr((_mm_getcsr() & ~FLUSH_BITS) | bits); }
#else
#define FLUSH_BITS 0u
static unsigned flushing(void) { return 0; }
static void set_flushing(unsigned bits) { (void)bits; }
#endif

/* OpenMP's workers too; the library uses no more than 3 in the tests. */
static void enter_odd_host(void)
{
#ifdef _OPENMP
#pragma omp parallel num_threads(3)
#endif
    {
        fesetround(FE_UPWARD);
        set_flushing(FLUSH_BITS);
    }
    CHECK(fesetround(FE_UPWARD) == 0);
    set_flushing(FLUSH_BITS);
}

/* The library must have left the modes as they were. */
static void leave_odd_host(void)
{
    int strange = 0;
    CHECK(fegetround() == FE_UPWARD);
    CHECK(flushing() == FLUSH_BITS);
#ifdef _OPENMP
#pragma omp parallel num_threads(3) reduction(+ : strange)
#endif
    strange += fegetround() != FE_UPWARD || flushing() != FLUSH_BITS;
    CHECK(strange == 0);
#ifdef _OPENMP
#pragma omp parallel num_threads(3)
#endif
    {
        set_flushing(0);
        fesetround(FE_TONEAREST);
    }
    set_flushing(0);
    CHECK(fesetround(FE_TONEAREST) == 0);
}

#endif
