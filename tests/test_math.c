/* test_math.c - elementary functions against long double libm, edges, frozen bits, random numbers.
 * cc -O2 -fopenmp -I. tests/test_math.c -o build/test_math -lm */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "test.h"

#define SWEEP 200000

static uint64_t frozen; /* FNV-1a over the bits of every result of the sweeps that use no libm */

static void freeze(double value)
{
    unsigned char bytes[8];
    int i;
    memcpy(bytes, &value, sizeof value);
    for (i = 0; i < 8; i++) frozen = (frozen ^ bytes[i]) * 0x100000001B3u;
}

/* error in units of the last place of the correctly rounded result */
static double ulps(double actual, long double expected)
{
    int exponent;
    if (expected == 0.0L) return actual == 0.0 ? 0.0 : 1e9;
    frexpl(expected, &exponent);
    if (exponent < -1021) exponent = -1021; /* subnormal results share one spacing */
    return (double)(fabsl((long double)actual - expected) / ldexpl(1.0L, exponent - 53));
}

/* number i of `SWEEP` arguments spread evenly over [low, high), jittered */
static double spread(uint64_t stream, int i, double low, double high)
{
    volatile double
        offset; /* the compiler may contract a test's own a * b + c, and must not here */
    offset = (high - low) * ((i + lensnet_random_uniform(1, stream, (uint64_t)i)) / SWEEP);
    return low + offset;
}

typedef double (*function)(double);
typedef long double (*exact_function)(long double);

static void sweep(const char *name, function f, exact_function exact, double low, double high,
                  double bound)
{
    double worst = 0.0, at = 0.0;
    int i;
    for (i = 0; i < SWEEP; i++) {
        double x = spread(lensnet_random_stream(name), i, low, high);
        double value = f(x);
        double error = ulps(value, exact(x));
        freeze(value);
        if (error > worst) {
            worst = error;
            at = x;
        }
    }
    printf("%-4s [%12g, %12g]: %.3f ulp at %.17g\n", name, low, high, worst, at);
    CHECK(worst <= bound);
}

/* arguments of every magnitude: the sweep runs over the exponent */
static void sweep_magnitudes(const char *name, function f, exact_function exact, double low,
                             double high, double bound)
{
    double worst = 0.0;
    int i;
    for (i = 0; i < SWEEP; i++) {
        double size = spread(77, i, low, high);
        double x = ldexp(1.0 + (size - floor(size)), (int)floor(size));
        double error = ulps(f(x), exact(x));
        freeze(f(x));
        if (error > worst) worst = error;
    }
    printf("%-4s 2^%g .. 2^%g: %.3f ulp\n", name, low, high, worst);
    CHECK(worst <= bound);
}

static void test_accuracy(void)
{
    sweep("exp", lensnet_exp, expl, -1.0, 1.0, 0.65);
    sweep("exp", lensnet_exp, expl, -708.0, 709.78, 0.65);
    sweep("exp", lensnet_exp, expl, -746.0, -708.0, 1.0);
    sweep("log", lensnet_log, logl, 0.5, 2.0, 0.85);
    sweep("log", lensnet_log, logl, 0.999, 1.001, 0.85);
    sweep_magnitudes("log", lensnet_log, logl, -1074.0, 1023.99, 0.85);
    sweep("sin", lensnet_sin, sinl, -10.0, 10.0, 0.80);
    sweep("sin", lensnet_sin, sinl, -1e5, 1e5, 0.80);
    sweep_magnitudes("sin", lensnet_sin, sinl, -1000.0, 3.0, 0.80);
    sweep("cos", lensnet_cos, cosl, -10.0, 10.0, 0.80);
    sweep("cos", lensnet_cos, cosl, -1e5, 1e5, 0.80);
    sweep("erf", lensnet_erf, erfl, -1.0, 1.0, 0.90);
    sweep("erf", lensnet_erf, erfl, -6.5, 6.5, 0.90);
    sweep_magnitudes("erf", lensnet_erf, erfl, -1000.0, 0.0, 0.90);
}

static void test_multiples_of_half_pi(void)
{
    double worst = 0.0;
    int k;
    for (k = 1; k < 63000; k++) { /* the doubles nearest to zeros of sine and cosine */
        double x = k * 1.5707963267948966;
        double sine = ulps(lensnet_sin(x), sinl(x)), cosine = ulps(lensnet_cos(x), cosl(x));
        worst = sine > worst ? sine : worst;
        worst = cosine > worst ? cosine : worst;
    }
    printf("sin, cos near their zeros: %.3f ulp\n", worst);
    CHECK(worst <= 0.80);
}

static void test_pow_accuracy(void)
{
    double worst = 0.0;
    int i;
    for (i = 0; i < 2 * SWEEP; i++) {
        double size = spread(5, i % SWEEP, -20.0, 20.0);
        double x = i & 1 ? spread(6, i % SWEEP, 0.5, 2.0)
                         : ldexp(1.0 + (size - floor(size)), (int)floor(size));
        double reach =
            700.0 / fabs(lensnet_log(x)); /* the y that uses the whole range of results */
        double y = reach * spread(7, i * 101 % SWEEP, -1.0, 1.0);
        double value = lensnet_pow(x, y);
        double error = ulps(value, powl(x, y));
        freeze(value);
        if (error > worst) worst = error;
    }
    printf("pow: %.3f ulp\n", worst);
    CHECK(worst <= 0.85);
    CHECK(lensnet_pow(2.0, 10.0) == 1024.0);
    CHECK(lensnet_pow(10.0, 22.0) == 1e22);
    CHECK(lensnet_pow(0.5, 1074.0) == ldexp(1.0, -1074));
}

static void test_edges(void)
{
    const double infinity = HUGE_VAL;
    const double not_a_number = sqrt(-1.0);
    CHECK(lensnet_exp(0.0) == 1.0 && lensnet_exp(-0.0) == 1.0);
    CHECK(lensnet_exp(infinity) == infinity && lensnet_exp(-infinity) == 0.0);
    CHECK(lensnet_exp(709.782712893384) < infinity && lensnet_exp(709.7827128933841) == infinity);
    CHECK(lensnet_exp(-745.1332191019411) == ldexp(1.0, -1074) && lensnet_exp(-745.14) == 0.0);
    CHECK(lensnet_log(1.0) == 0.0 && lensnet_log(infinity) == infinity);
    CHECK(lensnet_log(0.0) == -infinity && lensnet_log(-0.0) == -infinity);
    CHECK(isnan(lensnet_log(-1.0)) && isnan(lensnet_log(-infinity)));
    CHECK(lensnet_sin(0.0) == 0.0 && signbit(lensnet_sin(-0.0)) && lensnet_cos(0.0) == 1.0);
    CHECK(isnan(lensnet_sin(infinity)) && isnan(lensnet_cos(-infinity)));
    CHECK(isnan(lensnet_sin(1.1e5)) && !isnan(lensnet_sin(1e5)));
    CHECK(lensnet_erf(infinity) == 1.0 && lensnet_erf(-infinity) == -1.0);
    CHECK(lensnet_erf(0.0) == 0.0 && signbit(lensnet_erf(-0.0)));
    CHECK(isnan(lensnet_exp(not_a_number)) && isnan(lensnet_log(not_a_number)));
    CHECK(isnan(lensnet_sin(not_a_number)) && isnan(lensnet_cos(not_a_number)));
    CHECK(isnan(lensnet_erf(not_a_number)));
    CHECK(isnan(lensnet_pow(not_a_number, 2.0)) && isnan(lensnet_pow(2.0, not_a_number)));
    CHECK(lensnet_pow(not_a_number, 0.0) == 1.0 && lensnet_pow(1.0, not_a_number) == 1.0);
    CHECK(lensnet_pow(0.0, 2.0) == 0.0 && lensnet_pow(0.0, -2.0) == infinity);
    CHECK(lensnet_pow(infinity, 0.5) == infinity && lensnet_pow(infinity, -0.5) == 0.0);
    CHECK(lensnet_pow(2.0, infinity) == infinity && lensnet_pow(2.0, -infinity) == 0.0);
    CHECK(lensnet_pow(0.5, infinity) == 0.0 && lensnet_pow(0.5, -infinity) == infinity);
    CHECK(lensnet_pow(2.0, 1e300) == infinity && lensnet_pow(2.0, -1e300) == 0.0);
    CHECK(lensnet_pow(2.0, 1e-300) == 1.0 && isnan(lensnet_pow(-2.0, 2.0)));
    CHECK(lensnet_pow(ldexp(1.0, -1074), 1.0) == ldexp(1.0, -1074));
    CHECK(lensnet_pow(1.7976931348623157e308, 1.0) == 1.7976931348623157e308);
}

static void test_random_known(void)
{
    /* splitmix64 in its published form, started at the key, walks through the counters */
    uint64_t state = lnp_random_key(12, 34);
    uint64_t counter;
    for (counter = 0; counter < 100; counter++) {
        uint64_t z = (state += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        if (lensnet_random_bits(12, 34, counter) != (z ^ (z >> 31))) break;
    }
    CHECK(counter == 100);
    CHECK(lensnet_random_stream("") == 0xCBF29CE484222325u);
    CHECK(lensnet_random_stream("a") == 0xAF63DC4C8601EC8Cu); /* published FNV-1a vectors */
    CHECK(lensnet_random_stream("foobar") == 0x85944171F73967E8u);
    CHECK(lensnet_random_bits(1, 2, 3) == lensnet_random_bits(1, 2, 3));
    CHECK(lensnet_random_bits(1, 2, 3) != lensnet_random_bits(2, 1, 3));
    CHECK(lensnet_random_bits(1, 2, 3) != lensnet_random_bits(1, 3, 2));
}

#define DRAWS 200000

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Kolmogorov-Smirnov distance times sqrt(n): above 1.95 with probability 0.001 */
static double kolmogorov(double *values, int count, function cumulative)
{
    double worst = 0.0;
    int i;
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    for (i = 0; i < count; i++) {
        double c = cumulative(values[i]);
        double below = fabs(c - (double)i / count), above = fabs(c - (i + 1.0) / count);
        worst = below > worst ? below : worst;
        worst = above > worst ? above : worst;
    }
    return worst * sqrt(count);
}

static double uniform_cumulative(double x) { return x; }
static double normal_cumulative(double x) { return 0.5 * erfc(-x / sqrt(2.0)); }

/* chi-square of the counts in 256 equal cells, in standard deviations from its mean */
static double chi_square(const double *values, int count)
{
    int cells[256] = {0}, i;
    double sum = 0.0, expected = count / 256.0;
    for (i = 0; i < count; i++) cells[(int)(256.0 * values[i])]++;
    for (i = 0; i < 256; i++) sum += (cells[i] - expected) * (cells[i] - expected) / expected;
    return (sum - 255.0) / sqrt(2.0 * 255.0);
}

/* the same sanity checks along each of the three coordinates */
static void test_random_statistics(void)
{
    static double uniform[DRAWS], normal[DRAWS];
    int axis, i;
    for (axis = 0; axis < 3; axis++) {
        double cells, u, n, mean = 0.0, square = 0.0, product = 0.0;
        for (i = 0; i < DRAWS; i++) {
            uint64_t at = (uint64_t)i;
            uint64_t a = axis == 0 ? at : 9, b = axis == 1 ? at : 9, c = axis == 2 ? at : 9;
            uniform[i] = lensnet_random_uniform(a, b, c);
            normal[i] = lensnet_random_normal(a, b, c);
            mean += normal[i] / DRAWS;
            square += normal[i] * normal[i] / DRAWS;
            if (i) product += normal[i] * normal[i - 1] / DRAWS;
        }
        cells = chi_square(uniform, DRAWS);
        u = kolmogorov(uniform, DRAWS, uniform_cumulative);
        n = kolmogorov(normal, DRAWS, normal_cumulative);
        printf("axis %d: chi-square %.2f sigma, KS %.2f %.2f, mean %.4f, variance %.4f, lag %.4f\n",
               axis, cells, u, n, mean, square, product);
        CHECK(fabs(cells) < 4.0);
        CHECK(u < 1.95 && n < 1.95);
        CHECK(fabs(mean) < 0.01 && fabs(square - 1.0) < 0.015 && fabs(product) < 0.01);
        CHECK(uniform[0] >= 0.0 && uniform[DRAWS - 1] < 1.0); /* sorted by now */
    }
}

/* every output bit flips with probability one half when one input bit flips */
static void test_random_avalanche(void)
{
    double worst = 0.0;
    int input, output;
    for (input = 0; input < 192; input++) {
        int flips[64] = {0}, i;
        for (i = 0; i < 2000; i++) {
            uint64_t word[3], before, change;
            word[0] = lensnet_random_bits(3, 0, (uint64_t)i);
            word[1] = lensnet_random_bits(3, 1, (uint64_t)i);
            word[2] = lensnet_random_bits(3, 2, (uint64_t)i);
            before = lensnet_random_bits(word[0], word[1], word[2]);
            word[input / 64] ^= (uint64_t)1 << input % 64;
            change = before ^ lensnet_random_bits(word[0], word[1], word[2]);
            for (output = 0; output < 64; output++) flips[output] += (int)(change >> output & 1);
        }
        for (output = 0; output < 64; output++) {
            double sigma = fabs(flips[output] - 1000.0) / sqrt(500.0);
            worst = sigma > worst ? sigma : worst;
        }
    }
    printf("avalanche: the worst of 12288 bit pairs is %.2f sigma away from one half\n", worst);
    CHECK(worst < 5.5);
}

static void test_frozen_bits(void)
{
    int i;
    for (i = 0; i < 10000; i++) freeze(lensnet_random_normal(1, 2, (uint64_t)i));
    printf("frozen 0x%016llXu\n", (unsigned long long)frozen);
    CHECK(frozen == 0xF9E44204AFB351AAu);
}

int main(void)
{
    frozen = 0xCBF29CE484222325u;
    test_accuracy();
    test_multiples_of_half_pi();
    test_pow_accuracy();
    test_edges();
    test_random_known();
    test_random_statistics();
    test_random_avalanche();
    test_frozen_bits();
    return test_end();
}
