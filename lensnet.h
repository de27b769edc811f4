/* lensnet.h - ConvNeXt V2 for gravitational-lens images, training and inference, in one C header.
 * Version 0.3.0, MIT licence (at the end). C99 and C++11; libc, libm and, optionally, OpenMP.
 *
 * Do this in one C or C++ file, and include the header plainly wherever else it is needed:
 *
 *     #define LENSNET_IMPLEMENTATION
 *     #include "lensnet.h"
 *
 *     int main(void)
 *     {
 *         static float pixels[150 * 150]; // fill it: row-major, any size
 *         lensnet_error error;
 *         lensnet_classifier *classifier;
 *         lensnet_prediction answer;
 *         if (lensnet_classifier_load(&classifier, "weights/lensnet-atto.safetensors", NULL, &error) ||
 *             lensnet_classify(classifier, pixels, 150, 150, &answer, &error))
 *             return puts(error.text), 1;
 *         printf("%s %.1f %%\n", answer.label, 100 * (double)answer.probability);
 *         lensnet_classifier_destroy(classifier);
 *         return 0;
 *     }
 *
 *     cc -O2 -fopenmp program.c -o program -lm                     (-fopenmp may be left out)
 *
 * The implementation takes seconds to compile. In a program that you work on, let a file lensnet.c hold the
 * first two lines and nothing else: compiled once, it makes every other inclusion as good as free.
 *
 * WHAT IT DOES  Loads, trains, saves and runs ConvNeXt V2 of every size on a CPU; builds other networks
 * from the same operators with gradients; AdamW, schedules, augmentation, metrics; safetensors files
 * that PyTorch's libraries read and write.
 *
 * WHAT IT DOES NOT  No GPU, no float16 arithmetic (bfloat16 there is), no distributed training, no image
 * formats: pixels come as arrays (examples/picture.h reads .npy, .npz and FITS). Only Linux with gcc and clang is tested; MSVC and macOS are
 * written for, not tried.
 *
 * CONTENTS
 *   what you call
 *     >>results        error codes, the host: memory, files, threads
 *     >>classify       level 1: weights file to answer
 *     >>images         resize, normalise, augment
 *     >>files          safetensors
 *     >>model          level 2: create, load, save, train a ConvNeXt V2
 *     >>operators      level 3: parameters, graphs, operators
 *     >>metrics        ROC, AUC, report, calibration
 *     >>schedules      learning rates over time
 *     >>mathematics    exp, log, ... and random numbers with the same bits everywhere
 *   how it works, from the bottom up
 *     >>platform       errors, memory, checked sizes, floating-point mode
 *     >>threads        a team of threads that works through phases
 *     >>host           the default hooks
 *     >>math           the code of >>mathematics
 *     >>isa            instruction sets and the one fused multiply-add
 *     >>vectors        the language of the kernels
 *     >>rows           elementwise and row kernels
 *     >>gemm-tiles     register tiles of the matrix products
 *     >>bfloat         products in bfloat16: rounding, packing, tiles
 *     >>gemm           blocking, packing, threads
 *     >>depthwise      direct depthwise convolution
 *     >>parameters     weights and their packed copies
 *     >>graph          record, plan, run
 *     >>operators-impl each operator: shape, plan, forward, backward
 *     >>block          the fused ConvNeXt V2 block
 *     >>safetensors    the format
 *     >>checkpoints    the names of ConvNeXt V2 in three libraries
 *     >>image          the code of >>images
 *     >>schedule       the code of >>schedules
 *     >>adamw-impl     the optimiser
 *     >>figures        the code of >>metrics
 *     >>description    what is known beside the weights: labels, size, normalisation
 *     >>convnext-v2    the network as in the paper, its files
 *     >>classify-impl  classifiers and sessions
 *   at the end
 *     >>history        versions, and what changed the bits
 *
 * BUILD OPTIONS  Define before the inclusion that holds the implementation (LENSNET_STATIC everywhere):
 *   LENSNET_IMPLEMENTATION             this file compiles the code
 *   LENSNET_STATIC                     all functions are static: two parts of a program may hold a copy each
 *   LENSNET_API                        what stands before every public declaration
 *   LENSNET_MALLOC(n), LENSNET_FREE(p) instead of malloc and free, both or none
 *   LENSNET_NO_SIMD                    portable code only
 *   LENSNET_NO_AVX512                  AVX2 at most
 *
 * CONVENTIONS  N images, H height, W width, C channels, K classes or outputs. Activations are (N, H, W,
 * C), weights have PyTorch's shapes. Outputs come first, then inputs, then sizes, the error last.
 * Structs of options come from a _defaults() function; NULL means these defaults.
 *
 * MEMORY  Comes from lensnet_host.allocate only. A graph says its bytes (lensnet_graph_plan) before it
 * takes them (lensnet_graph_allocate); running, backward and optimiser steps allocate nothing.
 *
 * ERRORS  Results are 0 or negative; lensnet_error holds a sentence. Nothing prints, exits or aborts.
 * After a failure results are untouched or NULL, as each declaration says.
 *
 * THREADS  One object, one thread at a time: a model, its graphs and its optimiser count as one, for they
 * share the weights. A classifier never changes and may be shared. There are no mutable globals.
 * OpenMP is used with num_threads(host.threads) and no setting of it is touched; the default is what OpenMP
 * offers, but no more than there are processors. A call is one parallel region whose threads share its tasks.
 * One that the system does not let run is waited for only if it is in the middle of a task, and after such a
 * stall the caller works alone for a while: beside busy processes two threads take about as long as one, and
 * single calls are late by a time slice of the scheduler, some milliseconds. The first call after a pause
 * wakes the threads, which takes a fraction of one. Inside a parallel region of the host a call has its own
 * thread alone, unless OpenMP was told to nest. After fork() objects from before it compute with one thread
 * in the child; new objects need host.threads = 1 there if the parent has used OpenMP, for GNU's (libgomp)
 * would wait for threads that the child does not have. Where the system refuses a thread, libgomp ends the
 * program: host.threads and OMP_THREAD_LIMIT keep below what it grants.
 *
 * PRECISION  fp32, or bf16 where an option says so (lensnet_classifier_options, lensnet_graph_options):
 *   rounded to bfloat16   both operands of matrix products (pointwise, stem, downsampling, forward and
 *                         backward; weights once a step), the blocks' hidden layer, its GELU, its slope
 *   float32 in both       the sums of products, weights and moments, gradients, depthwise convolutions,
 *                         LayerNorm, GRN's sums, the residual stream, pooled features, heads, losses
 * Processors with AVX-512 BF16 have an instruction for it; elsewhere bf16 gives the same bits, no sooner.
 * A classifier's default is fp32: in bf16 4 of 6,000 simulated images got another class from the shipped
 * weights (AUC 0.98307, fp32 0.98305), and whoever has no such instruction waits a little longer.
 *
 * SAME BITS  In fp32, and likewise in bf16, the results (forward, gradients, trained weights) are the
 * same bits for every instruction set, thread count and split of a batch, and in every build: fast-math is
 * refused, the C library's exp, log, sin ... are not called. (Not so a weight that two operators share: its gradient
 * depends on the split.) Creating, loading, planning, running, AdamW's step,
 * classifying and preprocessing work in round-to-nearest without flush-to-zero and leave the caller's mode
 * as it was, and that of OpenMP's workers; schedules, metrics, mathematics and single image
 * operations compute in the caller's mode. LENSNET_NUMERICS changes when the bits do.
 *
 * WALKS  From an image to its class: lensnet_classify makes a session, lnp_session_run takes images in
 * batches, lnp_session_prepare brings each to the network's input (lensnet_preprocess_image: crop,
 * normalise, resize), lnp_run_batch starts the team of threads, lnp_run_pass packs weights that have
 * changed and walks the recorded nodes (lnp_run_forward): a block is lnp_block_forward, its linear
 * layers lnp_block_expand and lnp_block_reduce, each an lnp_product that lnp_multiply_rows deals out to
 * the threads and cuts into panels and tiles (lnp_multiply_panel, lnp_multiply_tile, lnp_call_tile). The
 * logits come back to lnp_session_average, and lnp_predict makes the answer of them.
 *   From a batch to the weights: lensnet_forward_backward is lnp_run_batch again; for each micro-batch
 * lnp_run_pass goes forward, to the losses (lnp_cross_entropy_forward computes the gradient too), and back
 * (lnp_run_backward), where lnp_multiply_gradient continues each weight's gradient in the flat buffer.
 * lensnet_adamw_step clips that buffer and runs over it once (lnp_adamw_update_all).
 *
 * REFERENCES
 *   Woo et al. 2023, ConvNeXt V2, arXiv 2301.00808          the network
 *   Loshchilov & Hutter 2019, arXiv 1711.05101              AdamW
 *   Alexander et al. 2020, arXiv 2008.12731                 the lens images
 *   PyTorch, transformers, scikit-learn                     definitions, names, file formats
 *
 * TROUBLESHOOTING
 *   undefined reference to lensnet_...   no file defines LENSNET_IMPLEMENTATION, or LENSNET_STATIC differs
 *   undefined reference to sqrt          add -lm
 *   unknown option -fopenmp              leave it out: one thread
 *   "compiled with a part of fast-math"  drop -Ofast, -ffast-math, their parts, clang's -ffp-contract=fast
 *   "computes in wider numbers"          x87: -msse2 -mfpmath=sse
 *   two threads are no faster than one   other processes use the processors: see THREADS
 *   a child hangs after fork()           host.threads = 1 for the objects that it makes: see THREADS
 *   "Thread creation failed", and ends   the system grants fewer threads: host.threads or OMP_THREAD_LIMIT
 */
#ifndef LENSNET_H
#define LENSNET_H

#include <stddef.h>
#include <stdint.h>

#define LENSNET_VERSION_MAJOR 0
#define LENSNET_VERSION_MINOR 3
#define LENSNET_VERSION_PATCH 0
#define LENSNET_NUMERICS      2 /* stored in training states; changes when the bits of results do */

#ifndef LENSNET_API
#ifdef LENSNET_STATIC
#if defined(__GNUC__)
#define LENSNET_API __attribute__((unused)) static
#else
#define LENSNET_API static
#endif
#else
#define LENSNET_API extern
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif
/* -------------------------------------------------------------------------------------------------
 * >>results  Results, errors and what the library takes from its host.
 * ---------------------------------------------------------------------------------------------- */

/* Every function that can fail returns one of these: 0 is success, errors are negative. */
typedef enum lensnet_result {
    LENSNET_OK = 0,
    LENSNET_ERROR_ARGUMENT = -1,    /* a value outside its range, or NULL where it is not allowed */
    LENSNET_ERROR_SHAPE = -2,       /* dimensions that do not fit together */
    LENSNET_ERROR_MEMORY = -3,      /* the host's allocator returned NULL or a block that is not
                                       aligned as asked, or a size overflows */
    LENSNET_ERROR_FILE = -4,        /* a file cannot be opened, read, written or renamed */
    LENSNET_ERROR_FORMAT = -5,      /* a file's content breaks its format */
    LENSNET_ERROR_UNSUPPORTED = -6, /* a valid request that this build or version does not serve */
    LENSNET_ERROR_STATE = -7,       /* a call out of order, e.g. running before allocating */
    LENSNET_ERROR_NUMBER = -8 /* NaN or infinity in place of a number, or fast-math is active */
} lensnet_result;

/* The last parameter of every function that can fail; may be NULL. Written only on failure: a
 * complete sentence that says what was expected, what was found and, where there is one, a remedy. */
typedef struct lensnet_error {
    lensnet_result code;
    char text[508];
} lensnet_error;

/* The code in a few words, never NULL. Static storage. */
LENSNET_API const char *lensnet_result_text(lensnet_result result);

/* Instruction sets, from portable to fastest. The same bits come out of each. */
typedef enum lensnet_isa {
    LENSNET_ISA_REFERENCE = 0,   /* the plain `_ref` loops */
    LENSNET_ISA_PORTABLE = 1,    /* NEON, or what the compiler's default target has; without a fused
                                  * multiply-add (x86 below AVX2, WebAssembly) its exact emulation, whose
                                  * products take some 40 times as long as AVX2's */
    LENSNET_ISA_AVX2 = 2,        /* AVX2 + FMA */
    LENSNET_ISA_AVX512 = 3,      /* AVX-512 F, DQ, BW, VL */
    LENSNET_ISA_AVX512_BF16 = 4, /* the same, and its products in bfloat16 */
    LENSNET_ISA_BEST = 99        /* as a cap: whatever the processor has */
} lensnet_isa;

/* What matrix products are computed in. Everything else is float32 in both. */
typedef enum lensnet_precision {
    LENSNET_PRECISION_FP32 = 0, /* "fp32" */
    LENSNET_PRECISION_BF16 = 1  /* "bf16": operands rounded to bfloat16, sums in float32 */
} lensnet_precision;

/* The name in quotes; NULL outside the enum. Static storage. */
LENSNET_API const char *lensnet_precision_text(lensnet_precision precision);
/* The precision of that name, or LENSNET_ERROR_ARGUMENT with the names that exist. */
LENSNET_API lensnet_result lensnet_precision_parse(lensnet_precision *precision, const char *text,
                                                   lensnet_error *error);

/* All that the library takes from the program around it. Objects copy it when they are created, so
 * it may live on the stack; `user` is handed to each hook unchanged. Hooks may be called from the
 * thread that calls the library only, never from inside a parallel region. */
typedef struct lensnet_host {
    /* Memory: `alignment` is a power of two, at most 64; `bytes` > 0. NULL means out of memory. */
    void *(*allocate)(size_t bytes, size_t alignment, void *user);
    void (*release)(void *block, size_t bytes, void *user);
    /* Files. `open` returns NULL on failure; `read` and `write` return 0 on success; `close` of a file
     * that was written makes it appear under its path at once and entirely (commit = 1), or not at
     * all (commit = 0), and returns 0 on success. `file_size` answers UINT64_MAX when it cannot tell.
     * A hook that fails may say why in errno. Paths are the host's own, UTF-8 by custom.
     * The default hooks read and replace regular files only, never a folder, pipe or device, nor a file
     * that may not be written. A symbolic link stays: what it points to is replaced. The new file has
     * the old one's mode and, where that is allowed, its owner; other hard links keep the old content.
     * It is built as PATH.tmp-N beside it; such a file that no living process has open is what a killed
     * one left, and is removed by the next save to PATH. */
    void *(*file_open)(const char *path, int writing, void *user);
    uint64_t (*file_size)(void *file, void *user);
    int (*file_read)(void *file, uint64_t offset, void *bytes, size_t count, void *user);
    int (*file_write)(void *file, const void *bytes, size_t count, void *user);
    int (*file_close)(void *file, int commit, void *user);
    void *user;
    int threads;         /* at most this many; 0: what OpenMP would use, but no more than there are
                            processors (1 without OpenMP) */
    lensnet_isa isa_cap; /* LENSNET_ISA_BEST, or a lower path, as tests want */
} lensnet_host;

/* malloc, stdio with temp file + fsync + rename, all threads, best instruction set. */
LENSNET_API lensnet_host lensnet_host_defaults(void);

/* The instruction set that `host` (NULL: defaults) leads to on this processor. */
LENSNET_API lensnet_isa lensnet_isa_in_use(const lensnet_host *host);

/* "AVX-512", "AVX2+FMA", ... Static storage. */
LENSNET_API const char *lensnet_isa_text(lensnet_isa isa);
/* -------------------------------------------------------------------------------------------------
 * >>classify  Level 1: from a weights file to an answer.
 * ---------------------------------------------------------------------------------------------- */

/* A trained network, frozen: its weights are packed once for this processor and never change, so any
 * number of threads may share one classifier without a lock. */
typedef struct lensnet_classifier lensnet_classifier;

/* One thread's workspace for a shared classifier: allocated once, then classifies batches without
 * allocating. */
typedef struct lensnet_session lensnet_session;

struct lensnet_archive; /* >>files */
struct lensnet_archive_pair;
struct lensnet_architecture; /* >>operators */

typedef struct lensnet_classifier_options {
    const lensnet_host *host; /* NULL: lensnet_host_defaults() */
    int views; /* 1; 8: mean probability over those flips and quarter turns of the image that the
                  network was made for (lensnet_model_desc.views) */
    int calibrated; /* 1: use what the file says of its network: temperature, sets, what is foreign;
                        0: plain softmax */
    int bands; /* planes of the images that the caller will give; a network that takes another number is
                  refused, for it would read on behind them. 1; 0: as many as the network takes, which
                  the caller asks for by lensnet_classifier_preprocess */
    double coverage; /* of lensnet_prediction.set: 0.01 ... 0.99, raised to the next percent */
    lensnet_precision precision; /* of its sessions; LENSNET_PRECISION_FP32 */
    size_t
        memory_limit; /* bytes that a session may take for its graph, and for its images, whatever
                            size the file says that images have; 0: no limit; 2^32 (2^30 where size_t
                            has 32 bits) */
    const struct lensnet_archive_pair *told; /* what goes before what the file says, as in
                                                lensnet_load_options; NULL */
    size_t told_count;                       /* 0 */
    const struct lensnet_architecture
        *architectures;        /* other networks than ConvNeXt V2 that files may
                                                         be of; must outlive the classifier; NULL */
    size_t architecture_count; /* 0 */
} lensnet_classifier_options;

/* host NULL, 1 view, calibrated, 1 band, coverage 0.9, fp32. */
LENSNET_API lensnet_classifier_options lensnet_classifier_defaults(void);

typedef struct lensnet_prediction {
    int index; /* the most probable class, 0 ... classes - 1; the first one if several tie */
    const char *label; /* its name, or "unknown"; borrowed, lives as long as the classifier */
    float probability; /* its probability among the classes, 0 ... 1 */
    int unknown;       /* 1: unlike the images that the network knows, so believe no class */
    float foreign; /* how unlike, over the file's threshold, which 1 in 100 of the images that it
                          was fitted on exceed; 0 where the file has none */
    int set_size;  /* classes in the set; -1: the file has no sets, or there are over 64 classes */
    uint64_t set;  /* conformal: bit k says that class k is in it. Of images of the known kind,
                          the share options.coverage has its true class inside. May be empty */
} lensnet_prediction;

/* Reads a .safetensors file of ConvNeXt V2 weights (names of Hugging Face, timm or the authors; F32,
 * F16 or BF16), the index of one in shards, or a Hugging Face folder with either, and freezes it; or of one of
 * options->architectures, by the name in its metadata or config.json, else by the names of its tensors.
 * Labels, image size and normalisation are what options->told says, else the file's metadata, else the
 * config.json and preprocessor_config.json beside it; where all are silent: 3 classes are "no",
 * "sphere", "vort", 224 pixels, z-norm, and lensnet_classifier_notes says so. What
 * examples/calibrate.h added about temperature, sets and foreign images is read too. `options` may be
 * NULL. On failure *classifier is NULL. Allocates; the caller owns the result. */
LENSNET_API lensnet_result lensnet_classifier_load(lensnet_classifier **classifier,
                                                   const char *path,
                                                   const lensnet_classifier_options *options,
                                                   lensnet_error *error);

/* The same from `count` bytes in memory, which are not needed after the call. */
LENSNET_API lensnet_result lensnet_classifier_load_memory(lensnet_classifier **classifier,
                                                          const void *bytes, size_t count,
                                                          const lensnet_classifier_options *options,
                                                          lensnet_error *error);

/* The same from an open archive, which is not needed after the call; for weights in another format that
 * hooks of the caller's present as an archive. */
LENSNET_API lensnet_result lensnet_classifier_load_archive(
    lensnet_classifier **classifier, const struct lensnet_archive *archive,
    const lensnet_classifier_options *options, lensnet_error *error);

/* NULL is allowed. Sessions of the classifier must be destroyed before. */
LENSNET_API void lensnet_classifier_destroy(lensnet_classifier *classifier);

/* What had to be taken for granted, and what was read elsewhere than in the file: a sentence a line; ""
 * where there is nothing to say. A program prints it. Borrowed from the classifier. */
LENSNET_API const char *lensnet_classifier_notes(const lensnet_classifier *classifier);
LENSNET_API size_t lensnet_classifier_classes(const lensnet_classifier *classifier);
/* Name of class `index`; "" outside 0 ... classes - 1. Borrowed from the classifier. */
LENSNET_API const char *lensnet_classifier_label(const lensnet_classifier *classifier,
                                                 size_t index);
/* Length of the pooled feature vector: for ConvNeXt the width of the last stage. */
LENSNET_API size_t lensnet_classifier_features(const lensnet_classifier *classifier);
/* Length of the means by which foreign images are told: the width of the second stage, or of the last
 * where the file has only that one's mean, as lensnet-atto.safetensors; of a network without stages, the
 * features' own. */
LENSNET_API size_t lensnet_classifier_pooled(const lensnet_classifier *classifier);
/* What the file says of its network, and this classifier believes. */
typedef struct lensnet_reliability {
    double temperature; /* T: probabilities are softmax(logits / T); 1: not calibrated */
    double power; /* P: where it is not 1, they are as exp(-(d / T)^P), where d is how far a class's
                           logit is below the greatest */
    int sets;     /* 1: predictions have conformal sets */
    int foreign;  /* 1: predictions say how foreign an image is */
    double coverage; /* that the sets were asked for: lensnet_classifier_options.coverage */
} lensnet_reliability;
LENSNET_API lensnet_reliability
lensnet_classifier_reliability(const lensnet_classifier *classifier);
/* What is done to an image before the network sees it (size, normalisation). */
LENSNET_API const struct lensnet_preprocess *
lensnet_classifier_preprocess(const lensnet_classifier *classifier);

/* Classifies one image of height x width pixels (row-major, any finite values, any size; for a network of
 * several bands one plane after the other). Allocates
 * its workspace and frees it before it returns; for many images use a session. */
LENSNET_API lensnet_result lensnet_classify(const lensnet_classifier *classifier,
                                            const float *pixels, size_t height, size_t width,
                                            lensnet_prediction *prediction, lensnet_error *error);

/* Workspace for up to `batch` images a call; lensnet_session_bytes says how much it took. The session
 * borrows the classifier. One thread at a time may use a session. */
LENSNET_API lensnet_result lensnet_session_create(lensnet_session **session,
                                                  const lensnet_classifier *classifier,
                                                  size_t batch, lensnet_error *error);
LENSNET_API void lensnet_session_destroy(lensnet_session *session); /* NULL is allowed */
LENSNET_API size_t lensnet_session_bytes(const lensnet_session *session);

/* Classifies `count` images of equal size, pixels (N, H, W), or (N, bands, H, W) for a network of several
 * bands; any count: larger ones are cut into the
 * session's batches. probabilities: (N, K), softmax rows, or NULL. features: (N, features), the
 * pooled and normalised vector before the last linear layer (of the unturned view), or NULL.
 * Allocates only when height x width differs from the last call's. Where one image is refused or gives
 * no number, the error names it, the answers of the session's earlier batches stand and the rest are
 * unspecified. */
LENSNET_API lensnet_result lensnet_session_classify(lensnet_session *session, float *probabilities,
                                                    float *features, const float *pixels,
                                                    size_t count, size_t height, size_t width,
                                                    lensnet_error *error);

/* The same, with a prediction for each of the N images, the probabilities, and `pooled` (N,
 * lensnet_classifier_pooled): the mean over a stage's map, by which foreign images are told. Each may be
 * NULL. */
LENSNET_API lensnet_result lensnet_session_predict(lensnet_session *session,
                                                   lensnet_prediction *predictions,
                                                   float *probabilities, float *pooled,
                                                   const float *pixels, size_t count, size_t height,
                                                   size_t width, lensnet_error *error);
/* -------------------------------------------------------------------------------------------------
 * >>images  From pixels to what the network sees. An image is a plane of floats, (H, W), row-major:
 * lens images are grey. No function here allocates: where working memory is needed, the caller asks
 * for its size and passes it in, aligned as malloc aligns. Sides are 1 ... LENSNET_IMAGE_LIMIT
 * pixels. Unless said otherwise output and input must not overlap, nothing may be NULL, and errors
 * (LENSNET_ERROR_ARGUMENT, LENSNET_ERROR_SHAPE) come before anything is written. The same bits come
 * out on every machine.
 * ---------------------------------------------------------------------------------------------- */

#define LENSNET_IMAGE_LIMIT 65536

/* How lensnet_resize weighs pixels; names in brackets are those of lensnet_resize_text. */
typedef enum lensnet_resize_mode {
    LENSNET_RESIZE_BILINEAR = 0, /* [bilinear] antialiased where an axis shrinks: torchvision's and
                                          Pillow's default */
    LENSNET_RESIZE_BICUBIC = 1,  /* [bicubic] antialiased, a = -0.5, as Pillow */
    LENSNET_RESIZE_NEAREST = 2,  /* [nearest] */
    LENSNET_RESIZE_BILINEAR_PLAIN = 3, /* [bilinear-plain] never antialiased */
    LENSNET_RESIZE_BICUBIC_PLAIN = 4   /* [bicubic-plain] never antialiased, a = -0.75, as OpenCV */
} lensnet_resize_mode;

/* The mode's name as it stands in files; NULL outside the enum. Static storage. */
LENSNET_API const char *lensnet_resize_text(lensnet_resize_mode mode);
/* The mode of that name, or LENSNET_ERROR_ARGUMENT with the names that exist. */
LENSNET_API lensnet_result lensnet_resize_parse(lensnet_resize_mode *mode, const char *text,
                                                lensnet_error *error);

/* Resizes (height, width) to (output_height, output_width) with PyTorch's definitions (pixel
 * centres, align_corners = False; weights in double, sums in float). Weights sum to 1. A pixel that
 * is not finite makes its neighbours so. */
LENSNET_API lensnet_result lensnet_resize(float *output, const float *input, size_t output_height,
                                          size_t output_width, size_t height, size_t width,
                                          lensnet_resize_mode mode, void *scratch,
                                          lensnet_error *error);
/* Bytes of `scratch` for that call; 0 if a side is out of range. */
LENSNET_API size_t lensnet_resize_scratch_bytes(size_t output_height, size_t output_width,
                                                size_t height, size_t width,
                                                lensnet_resize_mode mode);

/* Mirrors left-right if `hflip`, then top-bottom if `vflip`, then turns by `quarter_turns` * 90
 * degrees clockwise (any integer). The output is (width, height) for an odd number of turns. */
LENSNET_API lensnet_result lensnet_turn(float *output, const float *input, size_t height,
                                        size_t width, int hflip, int vflip, int quarter_turns,
                                        lensnet_error *error);

typedef enum lensnet_interpolation {
    LENSNET_INTERPOLATION_NEAREST = 0, /* torchvision's default for affine maps */
    LENSNET_INTERPOLATION_BILINEAR = 1
} lensnet_interpolation;

/* The map from output to input pixels (both measured from the image's centre, x right, y down) of
 * torchvision's affine: x' = m[0] x + m[1] y + m[2], y' = m[3] x + m[4] y + m[5]. The picture is
 * sheared and scaled, turned clockwise by `degrees`, then moved right by shift_x and down by
 * shift_y pixels. Angles are degrees; scale > 0, |shear| < 90, |degrees| <= 360000. */
LENSNET_API lensnet_result lensnet_affine_matrix(double matrix[6], double degrees, double shift_x,
                                                 double shift_y, double scale, double shear_x,
                                                 double shear_y, lensnet_error *error);

/* output(p) = input(matrix p), `fill` outside. Equals torchvision, and also in this: a bilinear
 * pixel at the border is attenuated twice, coverage * (value - fill) + fill, where the value lacks
 * the taps outside already. Nearest rounds halves to even. */
LENSNET_API lensnet_result lensnet_affine(float *output, const float *input, size_t height,
                                          size_t width, const double matrix[6],
                                          lensnet_interpolation interpolation, float fill,
                                          lensnet_error *error);

/* Random changes to a training image, in this order: flips, quarter turns, then shear, scale,
 * rotation and shift as in torchvision's RandomAffine. All in one resampling. */
typedef struct lensnet_augmentation {
    double share;             /* of the images that are changed at all, 0 ... 1 */
    double hflip_probability; /* 0 ... 1, left-right */
    double vflip_probability; /* 0 ... 1, top-bottom */
    int quarter_turns;        /* 1: a random number of quarter turns; square images only */
    double degrees;           /* rotation, uniform in +- this, 0 ... 360 */
    double translate; /* shift, uniform in +- this fraction of the side, whole pixels, 0 ... 1 */
    double minimum_scale; /* scale, uniform in [minimum, maximum), 0 < minimum <= maximum */
    double maximum_scale;
    double shear; /* shear along x and along y, each uniform in +- this many degrees, 0 ... 89 */
    lensnet_interpolation interpolation;
    float fill; /* what comes in from outside, in the units of the image at this stage */
} lensnet_augmentation;

/* The reference recipe: every image, both flips 0.5, no quarter turns, 30 degrees, shift 0.1, scale 0.9 to 1.1,
 * no shear, nearest, fill 0. */
LENSNET_API lensnet_augmentation lensnet_augmentation_defaults(void);

/* One draw: a function of seed, epoch, file (e.g. lensnet_random_stream of its name) and the
 * description, of nothing else. `augmentation` may be NULL: defaults. */
LENSNET_API lensnet_result lensnet_augment(float *output, const float *input, size_t height,
                                           size_t width, const lensnet_augmentation *augmentation,
                                           uint64_t seed, uint64_t epoch, uint64_t file,
                                           lensnet_error *error);
/* The matrix that lensnet_augment uses, as for lensnet_affine. */
LENSNET_API lensnet_result lensnet_augment_matrix(double matrix[6], size_t height, size_t width,
                                                  const lensnet_augmentation *augmentation,
                                                  uint64_t seed, uint64_t epoch, uint64_t file,
                                                  lensnet_error *error);

/* What is done to pixel values; names in brackets are those of lensnet_normalisation_text. */
typedef enum lensnet_normalisation {
    LENSNET_NORMALISATION_NONE = 0,     /* [none] */
    LENSNET_NORMALISATION_MINMAX = 1,   /* [minmax] per image, linearly to 0 ... 1 */
    LENSNET_NORMALISATION_ZNORM = 2,    /* [znorm] per image, mean 0, population deviation 1 */
    LENSNET_NORMALISATION_IMAGENET = 3, /* [imagenet] pixels in 0 ... 1; minus the mean, over the
                                                 deviation of each ImageNet channel (for
                                                 one channel 0.449 and 0.226) */
    LENSNET_NORMALISATION_MINMAX_IMAGENET = 4, /* [minmax+imagenet] one after the other */
    LENSNET_NORMALISATION_DATASET =
        5 /* [dataset] minus the mean, over the deviation of the training
                                                 set: those of lensnet_preprocess */
} lensnet_normalisation;

/* The name as it stands in files; NULL outside the enum. Static storage. */
LENSNET_API const char *lensnet_normalisation_text(lensnet_normalisation normalisation);
/* The normalisation of that name, or LENSNET_ERROR_ARGUMENT with the names that exist. */
LENSNET_API lensnet_result lensnet_normalisation_parse(lensnet_normalisation *normalisation,
                                                       const char *text, lensnet_error *error);

/* The per-image part of a normalisation ([none], [imagenet], [dataset]: a copy), computed in double. A
 * constant image becomes 0. LENSNET_ERROR_NUMBER, naming the pixel, for a NaN or a size above 1e30;
 * then nothing is written. output may be input. */
LENSNET_API lensnet_result lensnet_normalise(float *output, const float *input, size_t height,
                                             size_t width, lensnet_normalisation normalisation,
                                             lensnet_error *error);

/* Curves that lift what is faint; names in brackets are those of lensnet_stretch_text. They are those of
 * astropy.visualization with its parameters: t is the pixel, linearly from the image's smallest (0) to its
 * largest (1). */
typedef enum lensnet_stretch_mode {
    LENSNET_STRETCH_NONE = 0,  /* [none] the pixels as they are */
    LENSNET_STRETCH_ASINH = 1, /* [asinh] asinh(10 t) / asinh(10) */
    LENSNET_STRETCH_LOG = 2,   /* [log] log(1 + 1000 t) / log(1001) */
    LENSNET_STRETCH_SQRT = 3   /* [sqrt] sqrt(t) */
} lensnet_stretch_mode;

/* The name as it stands in files; NULL outside the enum. Static storage. */
LENSNET_API const char *lensnet_stretch_text(lensnet_stretch_mode mode);
/* The mode of that name, or LENSNET_ERROR_ARGUMENT with the names that exist. */
LENSNET_API lensnet_result lensnet_stretch_parse(lensnet_stretch_mode *mode, const char *text,
                                                 lensnet_error *error);

/* The curve over an image, to 0 ... 1, computed in double; [none] copies. A constant image becomes 0.
 * Refuses what lensnet_normalise refuses. output may be input. */
LENSNET_API lensnet_result lensnet_stretch(float *output, const float *input, size_t height,
                                           size_t width, lensnet_stretch_mode mode,
                                           lensnet_error *error);

/* What becomes of pixels that are not finite, e.g. where a detector has none. */
typedef enum lensnet_mend_mode {
    LENSNET_MEND_REFUSE = 0, /* [refuse] the image is refused */
    LENSNET_MEND_ZERO = 1,   /* [zero] 0 */
    LENSNET_MEND_MEDIAN = 2  /* [median] the (lower) median of the finite pixels: that of the sky */
} lensnet_mend_mode;

/* The name; NULL outside the enum. Static storage. */
LENSNET_API const char *lensnet_mend_text(lensnet_mend_mode mode);
LENSNET_API lensnet_result lensnet_mend_parse(lensnet_mend_mode *mode, const char *text,
                                              lensnet_error *error);

/* Mends the pixels in their place. *mended, which may be NULL: how many. LENSNET_ERROR_NUMBER, naming the
 * first, and nothing is changed, where the mode is [refuse] or no pixel is finite. */
LENSNET_API lensnet_result lensnet_mend(float *pixels, size_t height, size_t width,
                                        lensnet_mend_mode mode, size_t *mended,
                                        lensnet_error *error);

#define LENSNET_BANDS_LIMIT 16

/* The way from a raw image to the network's input: the one way, for training and for use. */
typedef struct lensnet_preprocess {
    int crop; /* side of the square cut from the middle first, native pixels; 0: the whole image */
    int image_size; /* side of the square input, pixels */
    int channels;   /* 3, or 1 (grey) for a network that was made so */
    int bands;      /* 1: a grey image, copied to the channels; else equal to `channels`, up to
                  LENSNET_BANDS_LIMIT: an image is (bands, height, width), each band a channel */
    lensnet_stretch_mode stretch;        /* after the crop and before all else */
    lensnet_normalisation normalisation; /* its per-image part comes next, per-channel last */
    lensnet_resize_mode resize;
    /* What is known of the images that the weights were trained on. Nothing is done with it here:
     * examples/dataset.h fits other images to it. */
    int source_size;    /* their side, pixels; 0: unknown, or of several sizes */
    double pixel_scale; /* arc seconds; 0: unknown */
    int resized; /* side that the image is resized to, of which the middle image_size is kept; 0:
                    image_size itself */
    float mean[LENSNET_BANDS_LIMIT]; /* of each channel; 0; for LENSNET_NORMALISATION_DATASET */
    float deviation[LENSNET_BANDS_LIMIT]; /* 1 */
} lensnet_preprocess;

/* The reference recipe: no crop, 224, 3 channels, grey images, no stretch, z-norm, bilinear; nothing
 * known of their size and scale. */
LENSNET_API lensnet_preprocess lensnet_preprocess_defaults(void);

/* Checks the fields, e.g. after reading them from a file. */
LENSNET_API lensnet_result lensnet_preprocess_check(const lensnet_preprocess *preprocess,
                                                    lensnet_error *error);

/* Bytes of scratch for images of (height, width), with or without augmentation; 0 if the
 * description or a side is out of range. */
LENSNET_API size_t lensnet_preprocess_scratch_bytes(const lensnet_preprocess *preprocess,
                                                    size_t height, size_t width);

/* pixels (height, width), or (bands, height, width), to output (image_size, image_size, channels), i.e. one
 * image of an NHWC batch: crop, stretch, normalise (all bands together, which keeps the colours), resize, repeat to the channels, per-channel part of the normalisation. An image
 * that is smaller than the crop gets zeros around it, as in torchvision's CenterCrop, and they take part
 * in what follows; of an odd difference the smaller half is cut above and left. Without a crop a side
 * ratio other than 1 is squashed. LENSNET_ERROR_NUMBER as in lensnet_normalise. */
LENSNET_API lensnet_result lensnet_preprocess_image(float *output, const float *pixels,
                                                    size_t height, size_t width,
                                                    const lensnet_preprocess *preprocess,
                                                    void *scratch, lensnet_error *error);

/* The same, with lensnet_augment after the resize; the per-channel part of the normalisation comes
 * after it, as is usual. augmentation NULL: none, i.e. lensnet_preprocess_image. */
LENSNET_API lensnet_result lensnet_preprocess_augmented(
    float *output, const float *pixels, size_t height, size_t width,
    const lensnet_preprocess *preprocess, const lensnet_augmentation *augmentation, uint64_t seed,
    uint64_t epoch, uint64_t file, void *scratch, lensnet_error *error);
/* -------------------------------------------------------------------------------------------------
 * >>files  Safetensors archives: reading any, writing one.
 * The format is Hugging Face's (github.com/huggingface/safetensors): eight bytes with the length of
 * a JSON table, the table, the numbers. A file is taken for hostile: its table is checked in full,
 * with the file's own size, before anything in it is used, and nothing of its tensors is allocated
 * here.
 * ---------------------------------------------------------------------------------------------- */

/* Types of stored numbers, by the names the format gives them and in the order it writes them in
 * (last first). An archive lists tensors of every type; lensnet_archive_read_float says which ones
 * can be read as numbers. */
typedef enum lensnet_dtype {
    LENSNET_DTYPE_BOOL,
    LENSNET_DTYPE_F4,
    LENSNET_DTYPE_F6_E2M3,
    LENSNET_DTYPE_F6_E3M2,
    LENSNET_DTYPE_U8,
    LENSNET_DTYPE_I8,
    LENSNET_DTYPE_F8_E5M2,
    LENSNET_DTYPE_F8_E4M3,
    LENSNET_DTYPE_F8_E8M0,
    LENSNET_DTYPE_F8_E4M3FNUZ,
    LENSNET_DTYPE_F8_E5M2FNUZ,
    LENSNET_DTYPE_I16,
    LENSNET_DTYPE_U16,
    LENSNET_DTYPE_F16,
    LENSNET_DTYPE_BF16,
    LENSNET_DTYPE_I32,
    LENSNET_DTYPE_U32,
    LENSNET_DTYPE_F32,
    LENSNET_DTYPE_C64,
    LENSNET_DTYPE_F64,
    LENSNET_DTYPE_I64,
    LENSNET_DTYPE_U64,
    LENSNET_DTYPE_COUNT
} lensnet_dtype;

/* "F32", "BF16", ...; never NULL. Static storage. */
LENSNET_API const char *lensnet_dtype_text(lensnet_dtype dtype);

#define LENSNET_ARCHIVE_RANK 8 /* the most dimensions a tensor in an archive may have */

/* An opened safetensors file. It may be read by one thread at a time. */
typedef struct lensnet_archive lensnet_archive;

/* One tensor of an archive: row-major, little-endian, without gaps. */
typedef struct lensnet_archive_entry {
    const char *name; /* UTF-8, ends in a zero; lives as long as the archive */
    lensnet_dtype dtype;
    int rank; /* 0 for a scalar */
    uint64_t shape[LENSNET_ARCHIVE_RANK];
    uint64_t count;  /* elements: the product of the shape */
    uint64_t offset; /* of its first byte in the file, or in its shards one behind the other */
    uint64_t bytes;
} lensnet_archive_entry;

/* Opens a safetensors file through the hooks of `host` (NULL: defaults) and checks all of its
 * table. `path` may also be the index of a file in shards (model.safetensors.index.json), or a folder
 * that holds a model.safetensors or such an index. On success *archive is the caller's, to be given to lensnet_archive_close; on failure it
 * is NULL. Allocates the table only, less than ten times the bytes of the file's own.
 * Errors: FILE when it cannot be read, FORMAT when it is no valid archive, MEMORY, and UNSUPPORTED
 * for a tensor of more than LENSNET_ARCHIVE_RANK dimensions. */
LENSNET_API lensnet_result lensnet_archive_open(lensnet_archive **archive, const char *path,
                                                const lensnet_host *host, lensnet_error *error);

/* The same for a file that stands in memory. `bytes` is borrowed until lensnet_archive_close and
 * needs no alignment. */
LENSNET_API lensnet_result lensnet_archive_open_memory(lensnet_archive **archive, const void *bytes,
                                                       size_t size, const lensnet_host *host,
                                                       lensnet_error *error);

/* Releases the table and closes the file. NULL is allowed. */
LENSNET_API void lensnet_archive_close(lensnet_archive *archive);

/* How many tensors there are. */
LENSNET_API size_t lensnet_archive_count(const lensnet_archive *archive);

/* Tensor number `index` in the order of the file's bytes; NULL when index >= count. */
LENSNET_API const lensnet_archive_entry *lensnet_archive_at(const lensnet_archive *archive,
                                                            size_t index);

/* The tensor of that name, or NULL. */
LENSNET_API const lensnet_archive_entry *lensnet_archive_find(const lensnet_archive *archive,
                                                              const char *name);

/* The text filed under `key` in the archive's metadata, or NULL. Lives as long as the archive. */
LENSNET_API const char *lensnet_archive_metadata(const lensnet_archive *archive, const char *key);

/* Reads a tensor as float32 into `values`, room for entry->count numbers. `entry` is one of this
 * archive's. F16, BF16, the integers up to 16 bits and BOOL (0 or 1) come out exactly; F64 and the
 * longer integers are rounded to nearest, F64 beyond float's range becomes infinite. Other types
 * are an UNSUPPORTED error that names the type; FILE when bytes cannot be read, and then `values`
 * holds nothing of use. Allocates nothing. */
LENSNET_API lensnet_result lensnet_archive_read_float(float *values, const lensnet_archive *archive,
                                                      const lensnet_archive_entry *entry,
                                                      lensnet_error *error);

/* Reads a tensor's bytes as they stand in the file, entry->bytes of them. Allocates nothing. */
LENSNET_API lensnet_result lensnet_archive_read_bytes(void *bytes, const lensnet_archive *archive,
                                                      const lensnet_archive_entry *entry,
                                                      lensnet_error *error);

/* One tensor to be written. Either `values` are given, float32 numbers that are stored as `dtype`
 * F32, F16 or BF16 (rounded to nearest, ties to even), or `bytes`, stored as they are. Everything
 * is borrowed for the call. */
typedef struct lensnet_archive_tensor {
    const char *name; /* UTF-8, unique in the archive */
    lensnet_dtype dtype;
    int rank; /* at most LENSNET_ARCHIVE_RANK; 0 for a scalar */
    uint64_t shape[LENSNET_ARCHIVE_RANK];
    const float *values;
    const void *bytes;
} lensnet_archive_tensor;

/* A line of an archive's metadata: two UTF-8 texts, ending in zeros. */
typedef struct lensnet_archive_pair {
    const char *key;
    const char *value;
} lensnet_archive_pair;

/* All lines of an archive's metadata, sorted by key, *count of them. They live as long as the archive. */
LENSNET_API const lensnet_archive_pair *lensnet_archive_pairs(const lensnet_archive *archive,
                                                              size_t *count);

/* The metadata line of checksums: the CRC-32 (zlib's) of the table, then of each tensor's bytes, in the
 * order of the file, eight hexadecimal digits each. Where a file has it, the table is checked by
 * lensnet_archive_open and a tensor by whatever reads it. */
#define LENSNET_ARCHIVE_CHECKSUMS "lensnet.checksums"

/* Writes a safetensors file of `count` tensors and `pair_count` lines of metadata (`pairs` may be
 * NULL with 0; transformers wants the line "format" = "pt"; the line LENSNET_ARCHIVE_CHECKSUMS
 * is filled in, whatever its value). The order in the file is that of the
 * reference writer: type, then name. The file appears under `path` at once and entirely; after a
 * failure what stood there before still does, and nothing else is left.
 * Errors: ARGUMENT for names that repeat or are not UTF-8 and for types that `values` cannot
 * become, NUMBER for a finite value beyond the range of its type, FILE, MEMORY. Allocates the table
 * only. */
LENSNET_API lensnet_result lensnet_archive_save(const char *path,
                                                const lensnet_archive_tensor *tensors, size_t count,
                                                const lensnet_archive_pair *pairs,
                                                size_t pair_count, const lensnet_host *host,
                                                lensnet_error *error);
/* -------------------------------------------------------------------------------------------------
 * >>model  Level 2: a ConvNeXt V2 that trains, saves and loads.
 * Woo et al. 2023, "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders".
 * ---------------------------------------------------------------------------------------------- */

typedef struct lensnet_parameters lensnet_parameters; /* level 3: values, gradients, names */
typedef struct lensnet_graph lensnet_graph;           /* level 3: a recorded, planned network */
typedef struct lensnet_model lensnet_model;           /* a description and its parameters */

#define LENSNET_HEADS       4 /* the most that a model may have beside its classifier */
#define LENSNET_HEAD_POOLED 4 /* as `stage`: the pooled and normalised features */

/* An extra output that helps to train: LayerNorm and a linear layer on what a stage gives (on the pooled
 * features the linear layer alone). Training states keep it; lensnet_model_save leaves it out. */
typedef struct lensnet_head {
    char name[24]; /* letters, digits, _; names its weights: lensnet.heads.NAME.weight ... */
    int stage; /* 0 ... 3: (N, H / s, W / s, outputs) with s = 4, 8, 16, 32; or LENSNET_HEAD_POOLED */
    size_t outputs; /* 1 ... 65536 */
} lensnet_head;

/* A ConvNeXt V2 in numbers. Start from lensnet_model_defaults(), change what differs. */
typedef struct lensnet_model_desc {
    size_t depths[4];          /* blocks per stage; tiny: 3 3 9 3 */
    size_t widths[4];          /* channels per stage; tiny: 96 192 384 768 */
    size_t classes;            /* 3 */
    float drop_path_rate;      /* 0 ... < 1, of the last block; linear from 0 at the first; 0 */
    float final_norm_epsilon;  /* 1e-6 (Hugging Face's configuration says 1e-12) */
    uint64_t seed;             /* of the initial weights, N(0, 0.02^2); 0 */
    const char *const *labels; /* `classes` names, copied; NULL: "no" "sphere" "vort" for 3 classes,
                                  else "class 0" ... */
    lensnet_preprocess preprocess; /* size, channels and normalisation, stored with the weights;
                                      224 px, 3 channels, z-norm */
    int views;                     /* turns that its probabilities may be averaged over, stored with
                                      the weights: 1 none, 2 the half turn, 4 mirrors too, 8 all; 8 */
    int gradients;                 /* 1: gradients are allocated too; 0: a model that only runs */
    const lensnet_head *heads;     /* `head_count` extra outputs, copied; NULL */
    size_t head_count;             /* 0 ... LENSNET_HEADS; 0 */
    const struct lensnet_architecture
        *architecture;        /* another network, whatever depths and widths say;
                                                        must outlive the model; NULL: ConvNeXt V2 */
    const lensnet_host *host; /* NULL: lensnet_host_defaults() */
} lensnet_model_desc;

/* Tiny, 3 classes, 224 px: literal values in every field. */
LENSNET_API lensnet_model_desc lensnet_model_defaults(void);

/* Sets depths and widths of "atto", "femto", "pico", "nano", "tiny", "base", "large" or "huge".
 * LENSNET_ERROR_ARGUMENT for another name. */
LENSNET_API lensnet_result lensnet_model_variant(lensnet_model_desc *desc, const char *name,
                                                 lensnet_error *error);
/* The variant's name, or "custom"; the architecture's name. Static storage, or the architecture's. */
LENSNET_API const char *lensnet_model_variant_name(const lensnet_model_desc *desc);
/* Number of weights, without building anything; 0 without memory for the table of another architecture's. */
LENSNET_API size_t lensnet_model_weights(const lensnet_model_desc *desc);
/* Multiply-accumulates of one forward pass at height x width; 4.456e9 for Tiny at 224. */
LENSNET_API double lensnet_model_macs(const lensnet_model_desc *desc, size_t height, size_t width);

/* Fresh weights: convolutions and linears N(0, 0.02^2) from (seed, tensor name, index), biases 0, norms
 * 1 and 0, GRN 0. `desc` NULL: defaults. On failure *model is NULL. Allocates; the caller owns it. */
LENSNET_API lensnet_result lensnet_model_create(lensnet_model **model,
                                                const lensnet_model_desc *desc,
                                                lensnet_error *error);

/* How to load a model; start from lensnet_load_defaults(). */
typedef struct lensnet_load_options {
    size_t classes;            /* 0: as in the file; another number than the file's: a fresh head */
    const char *const *labels; /* for `classes` != 0; NULL: as in lensnet_model_desc */
    float drop_path_rate;      /* 0 */
    uint64_t seed;             /* of a fresh head; 0 */
    int gradients;             /* 1 */
    const lensnet_preprocess *preprocess; /* NULL: as in the file, or the default */
    const lensnet_head *heads;            /* as in lensnet_model_desc; drawn from the seed */
    size_t head_count;                    /* 0 */
    const lensnet_host *host;             /* NULL: lensnet_host_defaults() */
    const lensnet_archive_pair *told;     /* what goes before what the file says; NULL */
    size_t told_count;                    /* 0 */
    const struct lensnet_architecture *architectures; /* as in lensnet_classifier_options; NULL */
    size_t architecture_count;                        /* 0 */
} lensnet_load_options;
/* Keys of `told`, and of the metadata of our files: "lensnet.architecture" (of another network than ConvNeXt V2:
 * its name), "lensnet.labels" (one a line), "lensnet.image_size",
 * "lensnet.crop", "lensnet.resized", "lensnet.normalisation", "lensnet.mean" and "lensnet.deviation" (numbers
 * with spaces between, one for all channels or one each), "lensnet.resize",
 * "lensnet.final_norm_epsilon"; and "lensnet.prefix", what stands before the names of the tensors that
 * are wanted (others are passed over; without it, whatever all names begin with is found). */
LENSNET_API lensnet_load_options lensnet_load_defaults(void);

/* Reads weights of any size in the names of Hugging Face, timm or the authors. `options` may be NULL.
 * *fresh_head (may be NULL) tells whether the last layer had to be drawn anew. On failure *model is
 * NULL. Allocates; the caller owns it. */
LENSNET_API lensnet_result lensnet_model_load(lensnet_model **model, const char *path,
                                              const lensnet_load_options *options, int *fresh_head,
                                              lensnet_error *error);
/* The same from an open archive, whatever its host; options->host becomes the model's. */
LENSNET_API lensnet_result lensnet_model_load_archive(lensnet_model **model,
                                                      const lensnet_archive *archive,
                                                      const lensnet_load_options *options,
                                                      int *fresh_head, lensnet_error *error);
LENSNET_API void lensnet_model_destroy(lensnet_model *model); /* NULL is allowed */
/* What had to be taken for granted when the model was loaded, as lensnet_classifier_notes. */
LENSNET_API const char *lensnet_model_notes(const lensnet_model *model);

/* Changes what lensnet_model_desc.views says; LENSNET_ERROR_ARGUMENT unless it is 1, 2, 4 or 8. */
LENSNET_API lensnet_result lensnet_model_set_views(lensnet_model *model, int views,
                                                   lensnet_error *error);

/* The description the model was made from, with labels filled in. Borrowed. */
LENSNET_API const lensnet_model_desc *lensnet_model_description(const lensnet_model *model);
LENSNET_API lensnet_parameters *lensnet_model_parameters(lensnet_model *model); /* borrowed */

/* Writes a safetensors file with Hugging Face names, and architecture, labels, image size and
 * normalisation in its metadata, so that the file alone is enough to classify. dtype: F32, F16 or BF16;
 * a weight beyond F16's range is LENSNET_ERROR_NUMBER. The file appears entirely or not at all. */
LENSNET_API lensnet_result lensnet_model_save(const lensnet_model *model, const char *path,
                                              lensnet_dtype dtype, lensnet_error *error);

/* How a graph is to run; start from lensnet_graph_defaults(). */
typedef struct lensnet_graph_options {
    size_t height, width; /* of the input images; 224 x 224; at least 32 for ConvNeXt V2 */
    size_t batch;         /* the largest batch that will be given; 32 */
    size_t micro_batch;   /* images computed at a time; 0: chosen by the plan. Changes no bit. */
    size_t memory_limit;  /* bytes; a plan that needs more computes fewer images at a time, then
                             recomputes, then fails with LENSNET_ERROR_MEMORY. 0: no limit */
    int training;         /* 1: with backward; 0: forward only */
    int recompute;        /* 1: keep less, compute the wide layer again in backward; 0: only where
                      memory_limit asks for it. Changes no bit. */
    int plain;            /* 1: record unfused operators. Changes no bit; slower; for tests */
    int input_gradient;   /* 1: backward reaches the images */
    int fixed_statistics; /* 1: batch norm takes its running statistics in training too, and leaves them */
    lensnet_precision precision; /* LENSNET_PRECISION_FP32 */
} lensnet_graph_options;
LENSNET_API lensnet_graph_options lensnet_graph_defaults(void);

/* Softmax cross-entropy; start from lensnet_loss_defaults(). */
typedef struct lensnet_loss {
    float label_smoothing;      /* 0 ... < 1; 0 */
    const float *class_weights; /* K values, copied at recording; NULL: all 1 */
    float weight;               /* of this loss among several, >= 0; 1 */
} lensnet_loss;
LENSNET_API lensnet_loss lensnet_loss_defaults(void);

/* Records the model into a new graph, ready for lensnet_graph_plan; the caller destroys it. It borrows the
 * model, and any number of graphs may share one, e.g. one to train and one to validate. NULL options or
 * loss: the defaults. On failure *graph is NULL. */
LENSNET_API lensnet_result lensnet_model_graph(lensnet_graph **graph, lensnet_model *model,
                                               const lensnet_graph_options *options,
                                               const lensnet_loss *loss, lensnet_error *error);

/* Layer-wise learning-rate decay of the ConvNeXt fine-tuning recipes: the deeper, the larger. */
typedef enum lensnet_layer_decay {
    LENSNET_LAYER_DECAY_SINGLE = 0, /* every block is a layer of its own (atto ... tiny) */
    LENSNET_LAYER_DECAY_GROUP =
        1 /* twelve groups, three blocks each in stage 2 (base and larger) */
} lensnet_layer_decay;

/* Factors on the learning rate for lensnet_adamw_desc, one for every tensor of the model (`rates` has room
 * for lensnet_parameters_count): decay^(layer count + 1 - layer), see lensnet_layer_number, 1 for the
 * classifier and the heads; 0 for stem, downsampling and blocks of the first `frozen` stages (0 ... 4).
 * decay 1: no decay. Of another architecture than ConvNeXt V2 no layers are known: LENSNET_ERROR_UNSUPPORTED
 * unless decay is 1 and frozen 0. */
LENSNET_API lensnet_result lensnet_model_rates(float *rates, const lensnet_model *model,
                                               lensnet_layer_decay kind, double decay, int frozen,
                                               lensnet_error *error);

/* AdamW (Loshchilov & Hutter 2019) as in PyTorch, on all parameters at once. */
typedef struct lensnet_adamw lensnet_adamw;
typedef struct lensnet_adamw_desc {
    double beta1, beta2;  /* 0.9, 0.999 */
    double epsilon;       /* 1e-8, added after the bias-corrected root */
    double weight_decay;  /* 0.01 */
    int decay_all;        /* 1: decay every parameter, as AdamW(model.parameters()) does; 0: none on
                            vectors (biases, norms) and GRN, as the authors do */
    double clip_norm;     /* gradients are scaled in place to at most this L2 norm; 0: off; 0 */
    double average_decay; /* d: after every step average = d average + (1 - d) weights (EMA), from a
                             copy of the weights before the first step; 0: no average is kept; 0 */
    const float
        *rates; /* factor on the learning rate for every tensor of the parameters, >= 0, copied;
                             0 freezes: weights stay, their gradients are zeroed and count in no norm.
                             lensnet_model_rates fills it; NULL: all 1 */
} lensnet_adamw_desc;
LENSNET_API lensnet_adamw_desc lensnet_adamw_defaults(void);

/* Moments start at zero. Borrows `parameters`, which must have gradients. NULL desc: the defaults.
 * Allocates 8 bytes a weight, 12 with an average, 4 a tensor with rates; the caller destroys it. On failure *adamw is NULL. */
LENSNET_API lensnet_result lensnet_adamw_create(lensnet_adamw **adamw,
                                                lensnet_parameters *parameters,
                                                const lensnet_adamw_desc *desc,
                                                lensnet_error *error);
LENSNET_API void lensnet_adamw_destroy(lensnet_adamw *adamw); /* NULL is allowed */
/* One update. *gradient_norm (may be NULL) receives the L2 norm before clipping. A norm that is not
 * finite leaves everything as it was and returns LENSNET_ERROR_NUMBER. Does not allocate. */
LENSNET_API lensnet_result lensnet_adamw_step(lensnet_adamw *adamw, double learning_rate,
                                              double *gradient_norm, lensnet_error *error);
LENSNET_API uint64_t lensnet_adamw_steps(const lensnet_adamw *adamw); /* updates so far */

/* Exchanges the weights with their moving average, to evaluate or save what training has averaged; a
 * second call brings the weights back. LENSNET_ERROR_STATE if no average is kept or no step was taken;
 * while the average stands there, steps and training states are refused (running the model is not), and
 * an optimiser that is destroyed then leaves the average in the model. Does not allocate. */
LENSNET_API lensnet_result lensnet_adamw_swap_average(lensnet_adamw *adamw, lensnet_error *error);

/* A training state: weights as in lensnet_model_save, AdamW's moments, average and step count, and text
 * pairs of the caller (schedule, epoch, best score ...) in the metadata. It loads as a model too. */
LENSNET_API lensnet_result lensnet_state_save(const lensnet_model *model,
                                              const lensnet_adamw *adamw,
                                              const lensnet_archive_pair *pairs, size_t pair_count,
                                              const char *path, lensnet_error *error);
/* Restores weights, moments, average and step count into a model and optimiser of the same shape. A state
 * without an average is refused (LENSNET_ERROR_FORMAT) by an optimiser that keeps one; an average that
 * the optimiser does not keep is passed over. On failure both are as before. Allocates, for the time of the
 * call, as much as is restored. Read the pairs with lensnet_archive_metadata. */
LENSNET_API lensnet_result lensnet_state_load(lensnet_model *model, lensnet_adamw *adamw,
                                              const char *path, lensnet_error *error);
/* -------------------------------------------------------------------------------------------------
 * >>operators  Level 3: any network from the same parts.
 * Record once with calls that read like the formula, plan (shapes are checked, the bytes are known),
 * allocate, run many times. Activations are (N, H, W, C), channels last; N is the batch and is not
 * written down. A recording call that fails poisons the graph; lensnet_graph_plan reports it.
 * ---------------------------------------------------------------------------------------------- */

typedef struct lensnet_tensor {
    int index;
} lensnet_tensor; /* an activation of a graph */
typedef struct lensnet_parameter {
    int index;
} lensnet_parameter; /* a weight of a lensnet_parameters; index < 0: none */

typedef enum lensnet_initial {
    LENSNET_INITIAL_ZERO = 0,
    LENSNET_INITIAL_ONE = 1,
    LENSNET_INITIAL_NORMAL_002 = 2, /* N(0, 0.02^2), as ConvNeXt */
    LENSNET_INITIAL_HE = 3,         /* N(0, 2 / fan_in), for ReLU networks (He et al. 2015) */
    LENSNET_INITIAL_TINY = 4        /* 1e-6, for layer scale (Liu et al. 2022) */
} lensnet_initial;

/* An empty table. `host` may be NULL. Allocates; the caller owns it. */
LENSNET_API lensnet_result lensnet_parameters_create(lensnet_parameters **parameters,
                                                     const lensnet_host *host,
                                                     lensnet_error *error);
LENSNET_API void lensnet_parameters_destroy(lensnet_parameters *parameters); /* NULL is allowed */

/* Adds a tensor of 1 to 4 dimensions in PyTorch's order: linear (K, C), convolution (K, C / groups, R,
 * S), vectors (C). Dimensions after the last used one are 0. The name is copied and must be new. */
LENSNET_API lensnet_parameter lensnet_parameter_add(lensnet_parameters *parameters,
                                                    const char *name, size_t d0, size_t d1,
                                                    size_t d2, size_t d3, lensnet_initial initial);
/* Adds a vector of running statistics, as of batch norm: it stands among the weights, but its operator moves
 * it, and AdamW neither steps nor decays it (the average follows it). */
LENSNET_API lensnet_parameter lensnet_statistic_add(lensnet_parameters *parameters,
                                                    const char *name, size_t count,
                                                    lensnet_initial initial);
/* Takes one flat buffer for the values and, if wanted, one for the gradients, and draws the initial
 * values from (seed, name, index). Reports the first failed lensnet_parameter_add. */
LENSNET_API lensnet_result lensnet_parameters_allocate(lensnet_parameters *parameters,
                                                       int gradients, uint64_t seed,
                                                       lensnet_error *error);

typedef struct lensnet_parameter_info {
    const char *name; /* borrowed */
    size_t shape[4];  /* PyTorch's order; unused dimensions are 1 */
    int rank;         /* 1 ... 4 */
    size_t offset;    /* of its first value in the flat buffers */
    size_t size;      /* number of values */
    int statistic;    /* added by lensnet_statistic_add */
} lensnet_parameter_info;
LENSNET_API size_t lensnet_parameters_count(const lensnet_parameters *parameters); /* tensors */
LENSNET_API size_t lensnet_parameters_size(const lensnet_parameters *parameters);  /* values */
/* Description of tensor `index` < count; an all-zero one outside. */
LENSNET_API lensnet_parameter_info lensnet_parameters_info(const lensnet_parameters *parameters,
                                                           size_t index);
/* The flat buffers: values and gradients of every tensor, in order of addition. NULL before allocate,
 * or without gradients. After writing values, call lensnet_parameters_changed. */
LENSNET_API float *lensnet_parameters_values(lensnet_parameters *parameters);
LENSNET_API float *lensnet_parameters_gradients(lensnet_parameters *parameters);
LENSNET_API void lensnet_parameters_changed(lensnet_parameters *parameters);

/* An empty graph over `parameters` (borrowed). `options` NULL: defaults. */
LENSNET_API lensnet_result lensnet_graph_create(lensnet_graph **graph,
                                                lensnet_parameters *parameters,
                                                const lensnet_graph_options *options,
                                                lensnet_error *error);
/* The precision of matrix products (linear, conv2d) recorded from here on; at first the options'. A last
 * linear layer is best left in float32. */
LENSNET_API void lensnet_graph_set_precision(lensnet_graph *graph, lensnet_precision precision);
LENSNET_API void lensnet_graph_destroy(lensnet_graph *graph); /* NULL is allowed */

/* What recording a model gives; heads only in a graph that trains. index < 0: the network has no such thing. */
typedef struct lensnet_network {
    lensnet_tensor stages[4]; /* (N, H / s, W / s, widths[i]) with s = 4, 8, 16, 32 */
    lensnet_tensor features;  /* (N, 1, 1, widths[3]), pooled and normalised */
    lensnet_tensor logits;    /* (N, 1, 1, classes) */
    lensnet_tensor heads[LENSNET_HEADS];
} lensnet_network;

/* Another network than ConvNeXt V2, that models, files and classifiers can be of (examples/backbones.h has a
 * table of some). `record` is called for every graph, and more than once before the model has any: it asks for
 * each weight by its name, adds it to `parameters` where it is not there yet, and sets all of the network but
 * the heads. The first weight that it adds reads the images, (K, channels, ...); the last two are the
 * classifier's, (K, C) and (K). It takes classes and drop_path_rate from the description. */
typedef struct lensnet_architecture {
    const char *name; /* as it stands in files: timm's, where it has one */
    void (*record)(lensnet_network *network, lensnet_graph *graph, lensnet_parameters *parameters,
                   lensnet_tensor images, const lensnet_model_desc *desc, const void *details);
    const void *details; /* handed to `record` */
} lensnet_architecture;

/* Records the model, its input included, into an empty graph over lensnet_model_parameters(model), so that
 * losses and operators of the caller's can follow; lensnet_model_graph is this and a cross-entropy. */
LENSNET_API lensnet_network lensnet_model_record(lensnet_graph *graph, const lensnet_model *model);

/* The images: (N, options.height, options.width, channels). */
LENSNET_API lensnet_tensor lensnet_input(lensnet_graph *graph, size_t channels);

typedef struct lensnet_conv2d_desc {
    size_t stride;   /* 1 */
    size_t padding;  /* zeros on every side; 0 */
    size_t dilation; /* 1 */
    size_t groups;   /* 1; C for depthwise */
} lensnet_conv2d_desc;
LENSNET_API lensnet_conv2d_desc lensnet_conv2d_defaults(void);

/* Cross-correlation with weight (K, C / groups, R, S) and bias (K) or none; torch.nn.functional.conv2d.
 * im2col + GEMM, one product for each group: with fewer than 16 channels a group that is slow. Depthwise
 * convolutions with a filter of 3 x 3, 5 x 5 or 7 x 7, stride 1 or 2, padding below the size and no dilation
 * run directly; others are a hundred times slower. `desc` NULL: defaults. */
LENSNET_API lensnet_tensor lensnet_conv2d(lensnet_graph *graph, lensnet_tensor x,
                                          lensnet_parameter weight, lensnet_parameter bias,
                                          const lensnet_conv2d_desc *desc);
/* y = x W^T + b over the last axis, W (K, C); torch.nn.functional.linear. */
LENSNET_API lensnet_tensor lensnet_linear(lensnet_graph *graph, lensnet_tensor x,
                                          lensnet_parameter weight, lensnet_parameter bias);
/* Over the channels of each pixel, biased variance; torch.nn.functional.layer_norm. */
LENSNET_API lensnet_tensor lensnet_layer_norm(lensnet_graph *graph, lensnet_tensor x,
                                              lensnet_parameter weight, lensnet_parameter bias,
                                              float epsilon);
/* x Phi(x), the erf form (Hendrycks & Gimpel 2016). */
LENSNET_API lensnet_tensor lensnet_gelu(lensnet_graph *graph, lensnet_tensor x);
LENSNET_API lensnet_tensor lensnet_relu(lensnet_graph *graph, lensnet_tensor x);
LENSNET_API lensnet_tensor lensnet_sigmoid(lensnet_graph *graph,
                                           lensnet_tensor x); /* 1 / (1 + e^-x) */
LENSNET_API lensnet_tensor lensnet_silu(lensnet_graph *graph,
                                        lensnet_tensor x); /* x sigmoid(x), swish */
/* Global response normalisation (ConvNeXt V2, section 3.2): gamma x G / (mean_c G + 1e-6) + beta + x with
 * G = sqrt(sum over pixels of x^2) per sample and channel. gamma, beta: C values in any shape. */
LENSNET_API lensnet_tensor lensnet_grn(lensnet_graph *graph, lensnet_tensor x,
                                       lensnet_parameter gamma, lensnet_parameter beta);
LENSNET_API lensnet_tensor lensnet_add(lensnet_graph *graph, lensnet_tensor a, lensnet_tensor b);
/* x y, value by value; y has the shape of x, or is (N, 1, 1, C): a gate for each channel, as in
 * squeeze-and-excitation (Hu et al. 2018). */
LENSNET_API lensnet_tensor lensnet_multiply(lensnet_graph *graph, lensnet_tensor x,
                                            lensnet_tensor y);
/* a and b with their channels side by side: (N, H, W, Ca + Cb); heights and widths must be equal. */
LENSNET_API lensnet_tensor lensnet_concat(lensnet_graph *graph, lensnet_tensor a, lensnet_tensor b);
/* gamma x, gamma: C values, a weight for each channel (layer scale: Touvron et al. 2021). */
LENSNET_API lensnet_tensor lensnet_channel_scale(lensnet_graph *graph, lensnet_tensor x,
                                                 lensnet_parameter gamma);
/* Over each sample's pixels and C / groups channels, biased variance; torch.nn.functional.group_norm (Wu &
 * He 2018). Plain loops in double. */
LENSNET_API lensnet_tensor lensnet_group_norm(lensnet_graph *graph, lensnet_tensor x, size_t groups,
                                              lensnet_parameter weight, lensnet_parameter bias,
                                              float epsilon);
typedef struct lensnet_batch_norm_desc {
    lensnet_parameter weight, bias;   /* C values each */
    lensnet_parameter mean, variance; /* C values each, by lensnet_statistic_add */
    float epsilon, momentum;          /* 1e-5, 0.1: PyTorch's */
} lensnet_batch_norm_desc;
LENSNET_API lensnet_batch_norm_desc lensnet_batch_norm_defaults(void); /* weights are missing */

/* Over each channel's values in the whole batch, biased variance; torch.nn.functional.batch_norm (Ioffe &
 * Szegedy 2015). A graph that trains normalises with the batch's own statistics, and every forward pass moves
 * the running ones by `momentum` of the way (variance: unbiased); it computes the whole batch at once, whatever
 * options.micro_batch says, for the statistics are the batch's. A graph that does not train
 * normalises with the running ones. */
LENSNET_API lensnet_tensor lensnet_batch_norm(lensnet_graph *graph, lensnet_tensor x,
                                              const lensnet_batch_norm_desc *desc);
/* A convolution without bias, and batch norm after it. In a classifier they are one: the filters are multiplied by
 * the norm's factors when it is loaded, its shifts become the bias, and answers differ by rounding. */
LENSNET_API lensnet_tensor lensnet_conv2d_batch_norm(lensnet_graph *graph, lensnet_tensor x,
                                                     lensnet_parameter weight,
                                                     const lensnet_conv2d_desc *desc,
                                                     const lensnet_batch_norm_desc *norm);
/* Over the channels of each pixel; torch.nn.functional.softmax over the last axis. For a loss use
 * lensnet_cross_entropy, which takes logits. */
LENSNET_API lensnet_tensor lensnet_softmax(lensnet_graph *graph, lensnet_tensor x);
/* Scaled dot-product attention (Vaswani et al. 2017) over the pixels of each image: the channels of qkv are
 * queries, keys and values, 3 C of them, each cut into `heads`; the result has C. For each head
 * softmax(q k^T / sqrt(C / heads)) v, torch.nn.functional.scaled_dot_product_attention. Keeps
 * heads (H W)^2 floats an image. */
LENSNET_API lensnet_tensor lensnet_attention(lensnet_graph *graph, lensnet_tensor qkv,
                                             size_t heads);
/* A vision transformer's sequence (Dosovitskiy et al. 2021): class_token (C values), then the pixels of x row by
 * row, plus position ((1 + H W) C values): (N, 1, 1 + H W, C). The weights may have any shape. */
LENSNET_API lensnet_tensor lensnet_tokens(lensnet_graph *graph, lensnet_tensor x,
                                          lensnet_parameter class_token,
                                          lensnet_parameter position);
/* Pixel number `index` of each image, row by row: (N, 1, 1, C). The class token is number 0. */
LENSNET_API lensnet_tensor lensnet_token(lensnet_graph *graph, lensnet_tensor x, size_t index);
/* In training, each value is zero with probability `rate`, else divided by 1 - rate (Srivastava et al.
 * 2014); decided by (batch.seed, batch.step, image, value, count of drops recorded before). */
LENSNET_API lensnet_tensor lensnet_dropout(lensnet_graph *graph, lensnet_tensor x, float rate);
/* Stochastic depth (Huang et al. 2016): in training, zero for a sample with probability `rate`, else
 * x / (1 - rate); decided by (batch.seed, batch.step, sample, count of drop paths recorded before). */
LENSNET_API lensnet_tensor lensnet_drop_path(lensnet_graph *graph, lensnet_tensor x, float rate);
LENSNET_API lensnet_tensor lensnet_mean_pool(lensnet_graph *graph,
                                             lensnet_tensor x); /* (N, 1, 1, C) */
/* torch.nn.functional.avg_pool2d with square kernel; padding counts as zeros. */
LENSNET_API lensnet_tensor lensnet_average_pool(lensnet_graph *graph, lensnet_tensor x,
                                                size_t kernel, size_t stride, size_t padding);
/* torch.nn.functional.max_pool2d with square kernel; padding never wins. */
LENSNET_API lensnet_tensor lensnet_max_pool(lensnet_graph *graph, lensnet_tensor x, size_t kernel,
                                            size_t stride, size_t padding);

#define LENSNET_LOSSES 8 /* the most that a graph may have */

/* Losses. A graph has up to LENSNET_LOSSES, and its loss is their weighted sum. Each is a mean over the
 * whole batch, however the batch is split. Where the batch gives no targets for one, running forward
 * passes it over, and backward is refused. */

/* Softmax cross-entropy of logits (N, 1, 1, K), torch.nn.functional.cross_entropy, with the batch's labels
 * or targets; one in a graph. Marks `logits` as the graph's output. NULL loss: the defaults. */
LENSNET_API void lensnet_cross_entropy(lensnet_graph *graph, lensnet_tensor logits,
                                       const lensnet_loss *loss);
/* Mean of (x - t)^2 over all values of x (N, H, W, C), torch.nn.functional.mse_loss; t is the batch's
 * lensnet_target of that name (copied, 1 ... 23 bytes). Where t is NaN, x is taken to be right: for what
 * is known of some images only. weight: finite, >= 0. */
LENSNET_API void lensnet_squared_error(lensnet_graph *graph, lensnet_tensor x, const char *target,
                                       float weight);
/* Mean of -t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)) over all values of x, for targets t of 0 ... 1:
 * torch.nn.functional.binary_cross_entropy_with_logits. Several labels may be true at once; NaN as above. */
LENSNET_API void lensnet_binary_cross_entropy(lensnet_graph *graph, lensnet_tensor x,
                                              const char *target, float weight);
/* Without a loss: marks what lensnet_outputs.logits receives. */
LENSNET_API void lensnet_output(lensnet_graph *graph, lensnet_tensor logits);
/* Keeps a tensor (and, in training, its gradient) readable after a run. Call it before the plan; a tensor
 * that does not exist is passed over. */
LENSNET_API void lensnet_keep(lensnet_graph *graph, lensnet_tensor x);

typedef struct lensnet_plan {
    size_t bytes;            /* what lensnet_graph_allocate will take, all together */
    size_t activation_bytes; /* ... of which activations and gradients of activations */
    size_t scratch_bytes;    /* ... of which workspace of operators and threads */
    size_t packed_bytes; /* ... of which copies of the weights in the kernels' order: those that no
                                graph of these parameters has taken yet */
    size_t micro_batch;  /* images computed at a time */
    int recompute;       /* whether backward computes the wide layers again */
    double macs;         /* multiply-accumulates of one image, forward */
} lensnet_plan;

/* Checks every shape, chooses the micro-batch, places the buffers; takes only small tables. Reports the
 * first recording call that failed. `plan` may be NULL. */
LENSNET_API lensnet_result lensnet_graph_plan(lensnet_graph *graph, lensnet_plan *plan,
                                              lensnet_error *error);
/* Takes the planned bytes. After it, running allocates nothing. */
LENSNET_API lensnet_result lensnet_graph_allocate(lensnet_graph *graph, lensnet_error *error);

/* The targets of one loss. */
typedef struct lensnet_target {
    const char *name;    /* as recorded */
    const float *values; /* (count, H, W, C) of the loss's tensor */
} lensnet_target;

/* What goes in. Start from lensnet_batch_defaults(). */
typedef struct lensnet_batch {
    const float *images;  /* (count, H, W, channels) */
    size_t channels;      /* the input's number, or 1: copied to every channel; 1 */
    size_t count;         /* 1 ... options.batch */
    const int *labels;    /* count values 0 ... K - 1, or negative: ignored; NULL without a loss */
    const float *targets; /* instead of labels: (count, K) soft targets; NULL */
    const lensnet_target *named; /* `named_count` targets of the other losses; NULL */
    size_t named_count;          /* 0 */
    uint64_t seed, step;         /* name the random numbers of drop path; 0 */
    /* Of a part of a larger batch, whose parts are computed apart (by several processes, say) and whose
     * gradients and losses the caller adds: where it stands in the whole. Losses are then divided by what
     * the whole has, and random numbers fall as there. How a batch is cut, and in which order its parts are
     * added, changes the last bits. Batch norm knows the part alone. */
    size_t first; /* images of the whole batch before this part; 0 */
    size_t total; /* images of the whole batch; 0: this is all of it */
    /* With labels that are negative or of weighted classes: the sum of the class weights (1 without) of
     * all labels of the whole batch that are not negative; 0: `total`. */
    double total_weight;
    /* For sending gradients while others are computed: backward calls it on the caller's thread after each
     * operator of the last micro-batch. The gradients from number `first` of the flat buffer on are complete and
     * may be changed; the numbers never rise, and the last is 0. It must not use the graph; NULL. */
    void (*complete)(size_t first, void *user);
    void *user; /* passed to it */
} lensnet_batch;
LENSNET_API lensnet_batch lensnet_batch_defaults(void);

/* What comes out; every pointer may be NULL. */
typedef struct lensnet_outputs {
    double loss;                   /* the weighted sum; 0 without labels and targets */
    double losses[LENSNET_LOSSES]; /* each in the order of recording, before its weight */
    float *logits;                 /* (count, K), caller's */
    float *input_gradients;        /* (count, H, W, C), caller's; needs options.input_gradient */
} lensnet_outputs;

/* Forward only (drop path off unless options.training). `outputs` may be NULL. Allocates nothing. */
LENSNET_API lensnet_result lensnet_forward(lensnet_graph *graph, const lensnet_batch *batch,
                                           lensnet_outputs *outputs, lensnet_error *error);
/* Forward and backward; the parameters' gradients are replaced. A batch is computed in micro-batches
 * with the same bits as at once. Allocates nothing. */
LENSNET_API lensnet_result lensnet_forward_backward(lensnet_graph *graph,
                                                    const lensnet_batch *batch,
                                                    lensnet_outputs *outputs, lensnet_error *error);
/* Shape and, after a run, value and gradient of a kept tensor for the last micro-batch; NULL if the
 * tensor was not kept. Borrowed until the next run. */
LENSNET_API const float *lensnet_tensor_value(const lensnet_graph *graph, lensnet_tensor x);
LENSNET_API const float *lensnet_tensor_gradient(const lensnet_graph *graph, lensnet_tensor x);
LENSNET_API void lensnet_tensor_shape(const lensnet_graph *graph, lensnet_tensor x, size_t *height,
                                      size_t *width, size_t *channels);

/* --- operators and losses of one's own ------------------------------------------------------------
 * Every operator of this header is a lensnet_operator beside its functions; one from outside is recorded
 * by the same call (examples/own_operator.c). Its functions are called in this order: shape when it is
 * recorded, plan once or more, then for every micro-batch forward and, in training, backward. They may
 * allocate nothing and are called by one thread; lensnet_node_run shares their work out. For the same
 * bits everywhere: no libm but sqrt, floor and rint, and sums whose order depends neither on the number
 * of images nor on the thread. The calls below are for these functions only; none of them fails. */

typedef struct lensnet_node
    lensnet_node; /* an operator in a graph: its tensors, weights, options */

#define LENSNET_MAX_INPUTS     4  /* tensors that an operator reads */
#define LENSNET_MAX_PARAMETERS 16 /* weights that it takes */
#define LENSNET_MAX_KEPT       4  /* buffers from forward to backward */
#define LENSNET_OPTION_BYTES   64

enum {
    LENSNET_READS_INPUT = 1,  /* backward reads the values of the inputs */
    LENSNET_READS_OUTPUT = 2, /* ... of the output */
    LENSNET_IS_LOSS = 4,      /* no output; recorded by lensnet_record_loss */
    LENSNET_WHOLE_BATCH = 8   /* a graph that trains must not split the batch */
};

typedef struct lensnet_operator {
    const char *name;    /* for messages, e.g. "softsign" */
    int inputs;          /* tensors, 0 ... LENSNET_MAX_INPUTS */
    int parameters;      /* weights, 0 ... LENSNET_MAX_PARAMETERS */
    int required;        /* so many of these, the first, may not be missing */
    size_t option_bytes; /* size of its struct of options, at most LENSNET_OPTION_BYTES; 0: none */
    int flags;           /* LENSNET_READS_INPUT ... */
    /* Checks inputs, weights and options, and gives the output its shape (lensnet_node_shape). A loss has
     * none to give. NULL: nothing to check, and the shape of the first input. */
    lensnet_result (*shape)(lensnet_node *node, lensnet_error *error);
    void (*plan)(lensnet_node *node); /* lensnet_node_keep, lensnet_node_reserve; NULL: no memory */
    void (*forward)(const lensnet_node *node);  /* writes every value of the output */
    void (*backward)(const lensnet_node *node); /* writes inputs' gradients, adds to weights' */
    double (*macs)(const lensnet_node *node);   /* multiply-accumulates of an image; NULL: 0 */
    /* Of a loss that is no mean over the values of its tensor: looks at the batch before it is computed
     * and calls lensnet_loss_given. NULL: targets by name, a mean over all values. */
    lensnet_result (*begin)(const lensnet_node *node, lensnet_error *error);
} lensnet_operator;

/* Records an operator. `op` must outlive the graph. inputs, parameters (index < 0: none) and options are as
 * many as it says, NULL where it has none, and are copied. */
LENSNET_API lensnet_tensor lensnet_record(lensnet_graph *graph, const lensnet_operator *op,
                                          const lensnet_tensor *inputs,
                                          const lensnet_parameter *parameters, const void *options);
/* Records a loss of x: `weight` times what it gives goes into the graph's loss. target: the name of its
 * lensnet_target; NULL if its `begin` needs none. */
LENSNET_API void lensnet_record_loss(lensnet_graph *graph, const lensnet_operator *op,
                                     lensnet_tensor x, const char *target, float weight,
                                     const void *options);

/* A tensor as an operator's functions see it: (n, h, w, c), packed, channels last. */
typedef struct lensnet_view {
    size_t n;       /* images in this micro-batch; in `plan` the most there will be, in `shape` 0 */
    size_t h, w, c; /* of the output also in `shape`, once they are set */
    float *value; /* an input's to read, an output's to write in forward. In backward NULL where the
                        operator's flags do not say that it is read; NULL in shape and plan */
    float *gradient; /* in backward: an output's to read, an input's to write; NULL: not wanted */
} lensnet_view;
LENSNET_API lensnet_view lensnet_node_input(const lensnet_node *node, int k);
LENSNET_API lensnet_view lensnet_node_output(const lensnet_node *node); /* all zero for a loss */

/* Weight k in PyTorch's order. All zero: missing. */
typedef struct lensnet_weight {
    size_t size;         /* number of values */
    const float *values; /* NULL in shape and plan */
    float *gradients;    /* to add to, sample after sample; NULL without gradients */
} lensnet_weight;
LENSNET_API lensnet_weight lensnet_node_weight(const lensnet_node *node, int k);

LENSNET_API const void *lensnet_node_options(const lensnet_node *node); /* the copy of the struct */
LENSNET_API int lensnet_node_training(const lensnet_node *node); /* as in lensnet_graph_options */
/* The batch that is being computed; *first (may be NULL) receives the number of the view's first image in
 * it. Random numbers from (batch->seed, batch->step, batch->first + number of the image) fall alike however
 * the batch is split. NULL in shape and plan. */
LENSNET_API const lensnet_batch *lensnet_node_batch(const lensnet_node *node, size_t *first);

/* For `shape`: the output is (n, height, width, channels). */
LENSNET_API void lensnet_node_shape(lensnet_node *node, size_t height, size_t width,
                                    size_t channels);
/* For `shape`, for every weight: it must have `count` values, and is read as it stands in the file. */
LENSNET_API lensnet_result lensnet_node_expect(const lensnet_node *node, int k, size_t count,
                                               lensnet_error *error);
/* For `plan`: a buffer that lives from forward to backward, so many floats for each image; it is number 0,
 * 1 ... LENSNET_MAX_KEPT - 1 in the order of the calls. */
LENSNET_API void lensnet_node_keep(lensnet_node *node, size_t floats);
LENSNET_API float *lensnet_node_kept(const lensnet_node *node, int number);
/* For `plan`: floats of scratch for one call of forward or backward, in all. 64-byte aligned. */
LENSNET_API void lensnet_node_reserve(lensnet_node *node, size_t floats);
LENSNET_API float *lensnet_node_scratch(const lensnet_node *node);

/* Calls task(node, i, worker) for i = 0 ... count - 1, shared out among the threads; worker is 0 ...
 * threads - 1. What different i write must not overlap. */
typedef void (*lensnet_task)(const void *node, size_t i, size_t worker);
LENSNET_API void lensnet_node_run(const lensnet_node *node, lensnet_task task, size_t count);

/* For a loss. Forward adds the sum of each image, in order; backward multiplies the gradient of that sum by
 * the scale, weight / divisor. Targets are those of the view's first image and on; NaN: unknown. */
LENSNET_API const float *lensnet_loss_targets(const lensnet_node *node);
LENSNET_API void lensnet_loss_add(const lensnet_node *node, double sum);
LENSNET_API double lensnet_loss_scale(const lensnet_node *node);
/* For `begin`: the batch has what the loss needs, and its sum over the whole batch (batch->total images, if
 * this is a part) is to be divided by `divisor` (0: the loss is 0). Not called: the loss is passed over, and
 * backward refused. */
LENSNET_API void lensnet_loss_given(const lensnet_node *node, double divisor);
/* -------------------------------------------------------------------------------------------------
 * >>metrics  The figures of the field, with scikit-learn's definitions and, to about 1e-12, its
 * numbers. N samples, K classes; scores are (N, K), row-major; labels are 0 ... K - 1.
 * Scores are doubles: a float widens to double exactly, so scores that tie as floats still tie, and
 * nothing is lost; ties decide ROC curves, so do not compute the softmax again in double. Ranks are
 * counted in integers. Where a class has no sample (or nothing but samples), what needs both kinds
 * is NaN, as in recent scikit-learn. Errors: LENSNET_ERROR_NUMBER for a score that is NaN or
 * infinite, LENSNET_ERROR_ARGUMENT for a label out of range, N = 0, K < 2 or NULL,
 * LENSNET_ERROR_MEMORY; each names the sample, and outputs are as before unless the declaration says
 * otherwise. `host` may be NULL: defaults.
 * ---------------------------------------------------------------------------------------------- */

typedef struct lensnet_class_metrics {
    size_t support;           /* samples of the class */
    size_t predicted;         /* samples taken for the class */
    size_t correct;           /* both */
    double precision;         /* correct / predicted; 0 if none was predicted */
    double recall;            /* correct / support; 0 if there is none */
    double f1;                /* their harmonic mean; 0 if both are 0 */
    double auc;               /* class against the rest; NaN if either side has no sample */
    double average_precision; /* NaN if the class has no sample */
    double brier;             /* mean squared distance of the class's score from 0 or 1 */
} lensnet_class_metrics;

typedef struct lensnet_averages {
    double precision, recall, f1;
} lensnet_averages;

typedef struct lensnet_metrics {
    size_t count, classes;
    size_t present;           /* classes that have a sample; if < classes, read `*_present` */
    double accuracy;          /* of the largest score in each row, the first of equals */
    double balanced_accuracy; /* mean recall over the present classes */
    lensnet_averages macro; /* plain means over the classes; the micro averages are the accuracy */
    lensnet_averages weighted;
    double auc_ovr_macro;    /* mean AUC, class against rest; NaN if a class has none */
    double auc_ovr_present;  /* the same over the classes that have one; NaN if none has */
    double auc_ovr_weighted; /* weighted by support */
    double auc_ovr_micro;    /* of all N * K decisions together */
    double auc_ovo_macro;    /* Hand & Till 2001: mean over the pairs of present classes */
    double auc_ovo_weighted; /* pairs weighted by their share of the samples */
    double log_loss; /* mean -log of the true class's score, clipped to 2.2e-16, rows to sum 1 */
    double brier;    /* mean over samples of the sum over classes, 0 ... 2 */
    double ece, mce; /* expected and maximum calibration error, LENSNET_METRICS_BINS bins */
    double mcc;      /* Matthews' correlation coefficient, -1 ... 1; 0 if undefined */
    double kappa;    /* Cohen's; NaN if chance alone agrees always */
    lensnet_class_metrics *per_class; /* (K) */
    size_t *confusion;                /* (K, K), row: true class, column: predicted class */
    lensnet_host host;                /* what per_class and confusion came from */
    size_t bytes;
} lensnet_metrics;

#define LENSNET_METRICS_BINS 15

/* Everything above from probabilities (rows sum to 1 within 1e-5, else LENSNET_ERROR_ARGUMENT).
 * Allocates per_class and confusion, which the caller releases, and for the time of the call
 * 16 N K bytes. On failure *metrics is all zero. */
LENSNET_API lensnet_result lensnet_metrics_compute(lensnet_metrics *metrics, const double *scores,
                                                   const int *labels, size_t count, size_t classes,
                                                   const lensnet_host *host, lensnet_error *error);
/* Frees what lensnet_metrics_compute allocated and zeroes the struct; NULL and zero are allowed. */
LENSNET_API void lensnet_metrics_release(lensnet_metrics *metrics);

/* A receiver operating characteristic, from (0,0) to (1,1). */
typedef struct lensnet_roc {
    size_t points;
    double *false_positive_rate; /* ascending; NaN if there are no negatives */
    double *true_positive_rate;  /* ascending; NaN if there are no positives */
    double *threshold; /* descending: positive is score >= threshold; the first is infinity */
    double auc;        /* NaN if undefined */
    lensnet_host host; /* what the arrays came from */
    size_t bytes;
} lensnet_roc;

#define LENSNET_ROC_MICRO (-1) /* as `which`: all N * K decisions together */
#define LENSNET_ROC_MACRO                                                                          \
    (-2) /* the mean of the class curves (of those defined) at every false positive
                                  rate that occurs in one of them; thresholds are NaN */

/* The curve of class `which` against the rest, or one of the two averages. With drop_intermediate,
 * points on a straight line between their neighbours are left out (not those of the macro average,
 * which starts from curves without them). Scores need not be probabilities. Allocates; release. */
LENSNET_API lensnet_result lensnet_roc_curve(lensnet_roc *roc, const double *scores,
                                             const int *labels, size_t count, size_t classes,
                                             int which, int drop_intermediate,
                                             const lensnet_host *host, lensnet_error *error);
/* The same for one score a sample: positive[i] is 0 or not. */
LENSNET_API lensnet_result lensnet_roc_binary(lensnet_roc *roc, const double *scores,
                                              const int *positive, size_t count,
                                              int drop_intermediate, const lensnet_host *host,
                                              lensnet_error *error);
LENSNET_API void lensnet_roc_release(lensnet_roc *roc); /* NULL and zero are allowed */

/* The column of the largest score in each row, the first of equals. scores must be finite. */
LENSNET_API void lensnet_predicted_classes(int *predictions, const double *scores, size_t count,
                                           size_t classes);

/* matrix (K, K): how often each true class (row) was taken for each class (column). */
LENSNET_API lensnet_result lensnet_confusion_matrix(size_t *matrix, const int *labels,
                                                    const int *predictions, size_t count,
                                                    size_t classes, lensnet_error *error);

typedef enum lensnet_share {
    LENSNET_SHARE_OF_TRUE = 0,      /* of the row's sum */
    LENSNET_SHARE_OF_PREDICTED = 1, /* of the column's sum */
    LENSNET_SHARE_OF_ALL = 2
} lensnet_share;

/* shares (K, K): each cell over that sum; 0 where the sum is 0. */
LENSNET_API lensnet_result lensnet_confusion_shares(double *shares, const size_t *matrix,
                                                    size_t classes, lensnet_share share,
                                                    lensnet_error *error);

/* scikit-learn's classification_report, byte by byte: one row for each of `classes` names (UTF-8).
 * Labels and predictions from `classes` on are counted, but have no row; then, and when a class
 * occurs nowhere, the accuracy gives way to the micro average. digits 0 ... 15; zero_division (0 or
 * 1) stands for 0/0. text has room for `capacity` bytes, the final zero included. *length (may be
 * NULL) is the length without it; with text = NULL nothing but that is done. LENSNET_ERROR_ARGUMENT
 * if the room is too small. Allocates nothing; the time is of the order N * K. */
LENSNET_API lensnet_result lensnet_classification_report(char *text, size_t capacity,
                                                         size_t *length, const int *labels,
                                                         const int *predictions, size_t count,
                                                         const char *const *names, size_t classes,
                                                         int digits, int zero_division,
                                                         lensnet_error *error);

/* One bar of a reliability diagram: samples whose largest score lies in (b / B, (b + 1) / B]. */
typedef struct lensnet_calibration_bin {
    size_t count;
    double accuracy;   /* 0 if empty */
    double confidence; /* mean largest score; 0 if empty */
} lensnet_calibration_bin;

/* Fills `bin_count` = B bins. *ece = sum of count / N * |accuracy - confidence|, *mce = the largest
 * |accuracy - confidence|; either may be NULL. Scores are probabilities. Allocates nothing. */
LENSNET_API lensnet_result lensnet_calibration(lensnet_calibration_bin *bins, double *ece,
                                               double *mce, const double *scores, const int *labels,
                                               size_t count, size_t classes, size_t bin_count,
                                               lensnet_error *error);

/* Temperature scaling (Guo et al. 2017): the T in 0.001 ... 1000 for which softmax(logits / T) has
 * the smallest mean cross-entropy; small where all samples are right. Convex in 1/T: Newton, kept
 * inside a bracket. Allocates nothing. */
LENSNET_API lensnet_result lensnet_temperature_fit(double *temperature, const double *logits,
                                                   const int *labels, size_t count, size_t classes,
                                                   lensnet_error *error);
/* That cross-entropy. Arguments as before; not checked. */
LENSNET_API double lensnet_temperature_loss(const double *logits, const int *labels, size_t count,
                                            size_t classes, double temperature);
/* -------------------------------------------------------------------------------------------------
 * >>schedules  Learning rates over time, and how rates differ with depth. Small functions of plain
 * numbers: nothing is allocated, and the only state is a struct that the caller owns and can store.
 * ---------------------------------------------------------------------------------------------- */

/* Lower the rate when a metric stops improving: PyTorch's ReduceLROnPlateau, decision by decision.
 * Settings first, then the state; all of it is plain numbers, so a checkpoint stores the struct
 * field by field. Start from lensnet_plateau_defaults(); change settings before the first step. */
typedef struct lensnet_plateau {
    int maximise;        /* 0: smaller metrics are better (a loss); 1: larger (an accuracy) */
    int absolute;        /* 0: `threshold` is a fraction of the best metric; 1: a difference */
    int patience;        /* epochs without improvement that are tolerated, >= 0 */
    int cooldown;        /* epochs after a reduction in which nothing is counted, >= 0 */
    double factor;       /* new rate = rate * factor, 0 < factor < 1 */
    double threshold;    /* improvements up to this do not count, >= 0 */
    double minimum_rate; /* the rate is never set below this, >= 0 */
    double epsilon;      /* a reduction by this or less is not made, >= 0 */
    int has_best;        /* state: 0 until a first metric counted as best */
    int bad_epochs;      /* state */
    int cooldown_left;   /* state */
    double best;         /* state, meaningful if has_best */
} lensnet_plateau;

/* PyTorch's: minimise, factor 0.1, patience 10, relative threshold 1e-4, no cooldown, no minimum
 * rate, epsilon 1e-8. (For 15 epochs patience 10 hardly ever acts; 3 is a usual choice.) */
LENSNET_API lensnet_plateau lensnet_plateau_defaults(void);

/* Once after each epoch: takes the epoch's metric and lowers *learning_rate if it is time. A NaN
 * metric is a bad epoch. LENSNET_ERROR_ARGUMENT for NULL or a field outside its range (then nothing
 * has changed). */
LENSNET_API lensnet_result lensnet_plateau_step(lensnet_plateau *plateau, double *learning_rate,
                                                double metric, lensnet_error *error);

/* Linear warm-up from 0, then half a cosine down to the minimum (Loshchilov & Hutter 2017, in the
 * form of the ConvNeXt recipes). Epochs are fractional: step / steps per epoch. */
typedef struct lensnet_cosine {
    double base_rate;
    double minimum_rate;
    double warmup_epochs; /* 0: none */
    double epochs;        /* where the minimum is reached, warm-up included */
} lensnet_cosine;

/* The rate at `epoch` >= 0; the minimum rate from `epochs` on. `cosine` must not be NULL. */
LENSNET_API double lensnet_cosine_rate(const lensnet_cosine *cosine, double epoch);

/* Drop-path rate of block number `block` (from 0, in network order) of `blocks`: linear from 0 for
 * the first to `rate` for the last; 0 if there is only one. */
LENSNET_API double lensnet_drop_path_rate(double rate, int block, int blocks);

#define LENSNET_LAYER_DOWNSAMPLE                                                                   \
    (-1)                     /* as `block`: the stem (stage 0) or downsampling before a stage */
#define LENSNET_LAYER_HEAD 4 /* as `stage`: the final norm and the classifier */

/* The layer number of block `block` of stage `stage` for a network with `depths` blocks in its four
 * stages, counted from the input; the head has the largest, lensnet_layer_count + 1. `stage` is 0
 * to LENSNET_LAYER_HEAD, `block` LENSNET_LAYER_DOWNSAMPLE to depths[stage] - 1. */
LENSNET_API int lensnet_layer_number(lensnet_layer_decay kind, const int depths[4], int stage,
                                     int block);
/* Layers below the head: the sum of the depths, or 12 for groups. */
LENSNET_API int lensnet_layer_count(lensnet_layer_decay kind, const int depths[4]);
/* The factor on the learning rate there: decay^(layer count + 1 - layer number); 1 for the head. */
LENSNET_API double lensnet_layer_scale(lensnet_layer_decay kind, double decay, const int depths[4],
                                       int stage, int block);
/* -------------------------------------------------------------------------------------------------
 * >>mathematics  Elementary functions and random numbers with the same bits on every machine.
 * The C library's exp, log, sin ... differ in the last bit between processors; these do not. They
 * use only + - * / sqrt floor rint, so IEEE 754 fixes every bit. Errors stay below one unit of the
 * last place (bounds per function in the implementation, measured by tests/test_math.c against long
 * double). NaN gives NaN, infinities the limits; nothing here allocates or fails.
 * ---------------------------------------------------------------------------------------------- */

LENSNET_API double lensnet_exp(double x); /* e^x; infinity above 709.78, 0 below -745.13 */
LENSNET_API double lensnet_log(double x); /* natural; log(0) = -infinity, log(< 0) = NaN */
LENSNET_API double lensnet_sin(double x); /* radians, |x| <= 1e5; NaN beyond */
LENSNET_API double lensnet_cos(double x); /* radians, |x| <= 1e5; NaN beyond */
LENSNET_API double lensnet_pow(double x, double y); /* x >= 0; NaN for x < 0 unless y = 0 */
LENSNET_API double lensnet_erf(double x);

/* Random numbers without a generator: number `counter` of the stream named by `seed` and `stream`.
 * Any order, any thread, any number of times: the same value, and it depends on these three alone.
 * Seed and stream are mixed into the state of a splitmix64 generator (Steele, Lea & Flood 2014),
 * whose output number `counter` is taken directly. */
LENSNET_API uint64_t lensnet_random_bits(uint64_t seed, uint64_t stream, uint64_t counter);
/* In [0,1), a multiple of 2^-53. */
LENSNET_API double lensnet_random_uniform(uint64_t seed, uint64_t stream, uint64_t counter);
/* Mean 0, variance 1, |value| < 8.6 (Box-Muller). Normal number i is made of the bits numbered 2i
 * and 2i + 1: do not use those of the same stream for anything else. */
LENSNET_API double lensnet_random_normal(uint64_t seed, uint64_t stream, uint64_t counter);
/* A stream's name from text, e.g. a file's name: FNV-1a, 64 bits. `text` must not be NULL. */
LENSNET_API uint64_t lensnet_random_stream(const char *text);
#ifdef __cplusplus
}
#endif

#endif /* LENSNET_H */

/* ================================================================================================
 *                                        IMPLEMENTATION
 * ============================================================================================= */
#if defined(LENSNET_IMPLEMENTATION) && !defined(LENSNET_IMPLEMENTED)
#define LENSNET_IMPLEMENTED

#include <errno.h>
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#endif

#if defined(__FAST_MATH__)
#error                                                                                             \
    "lensnet.h: compile without -ffast-math or -Ofast: results would not be the same bits everywhere"
#endif

#if defined(LENSNET_MALLOC) != defined(LENSNET_FREE)
#error "lensnet.h: define both LENSNET_MALLOC and LENSNET_FREE, or neither"
#endif
#ifndef LENSNET_MALLOC
#define LENSNET_MALLOC(bytes) malloc(bytes)
#define LENSNET_FREE(block)   free(block)
#endif

/* Private functions carry `unused`, so that a program that needs half the library sees no warning. */
#if defined(__GNUC__)
#define LNP_UNUSED              __attribute__((unused))
#define LNP_NOINLINE            __attribute__((noinline, unused))
#define LNP_PRINTF(text, first) __attribute__((unused, format(printf, text, first)))
#ifdef __OPTIMIZE__
#define LNP_INLINE static inline __attribute__((always_inline, unused))
#else /* forced, it would only multiply code that nothing folds: 20 s and 23 MB instead of 2 s and 1 */
#define LNP_INLINE static inline __attribute__((unused))
#endif
#else
#define LNP_UNUSED
#define LNP_NOINLINE
#define LNP_PRINTF(text, first)
#define LNP_INLINE static inline
#endif

/* gcc contracts a * b + c to an FMA where the target has one; the law of same bits forbids it. */
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wignored-pragmas" /* 32-bit ARM and wasm cannot restore it */
#pragma float_control(push)
#pragma clang diagnostic pop
#pragma STDC FP_CONTRACT OFF
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wunused-function"
#pragma clang diagnostic ignored "-Wpsabi"
#pragma clang diagnostic ignored "-Wpass-failed" /* unrolling is a wish */
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wpsabi"
#if __GNUC__ < 13 /* its own intrinsics, in C++: gcc bug 105593 */
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif
/* Letters and words that mean one thing in all that follows.
 *
 *   N H W C K   images, height, width, channels, outputs or classes; R S: height and width of a filter;
 *               H' W' of the output. In code n h w c k, and x y inputs and outputs, dx dy their gradients.
 *   m n k       of a matrix product: (m, n) = (m, k) times (k, n). m are pixels, k is what is summed.
 *   value       of a tensor, its numbers; gradient: of the loss in a tensor's numbers or a weight's.
 *               A product that gives a weight's gradient is a gradient product.
 *   weight      a tensor that is learned (in the public half: parameter). Operator: what it does. Node: an
 *               operator at its place in a graph.
 *   block       the ConvNeXt block, but for a block of k or of rows in a product (>>gemm).
 *   row         C numbers of a pixel, or a line of a matrix. Kernels of rows work on such lines.
 *
 * Ways to cut. The first three are part of the bits, the others only of the speed.
 *   chunk       56 pixels of a sample: a sum over pixels begins anew at each (>>rows)
 *   band        14 rows of outputs of a depthwise filter's gradient (>>depthwise)
 *   lane        one of 16 sums in which a row is added up (>>rows)
 *   micro-batch images that go through the graph at a time; group: samples that go through the wide part
 *               of a block at a time
 *   piece       8192 floats of an array; part: 16 rows: what a task of an elementwise operator takes
 *   strip       columns whose sums down the rows one worker makes
 *   tile        what a product keeps in registers; panel: its columns, packed; segment: rows of a sample,
 *               which chunks do not cross (>>gemm)
 *   task        what a worker takes from its share; phase: all tasks of one loop (>>threads) */

/* =================================================================================================
 * >>platform  Compiler, errors, memory, checked sizes. Everything below may call it.
 * ============================================================================================== */

#define LNP_ALIGNMENT ((size_t)64)

/* Functions of POSIX are bound by symbol: under -std=c99 the system's headers hide them, in gnu modes and
 * in C++ they declare them with attributes that a second declaration would have to repeat. */
#if defined(__GNUC__) && (defined(__unix__) || defined(__APPLE__))
#define LNP_POSIX                   1
#define LNP_TEXT_OF(token)          #token
#define LNP_SYMBOL_OF(prefix, name) LNP_TEXT_OF(prefix) name
#define LNP_SYMBOL(name)            __asm__(LNP_SYMBOL_OF(__USER_LABEL_PREFIX__, name))
#endif

const char *lensnet_result_text(lensnet_result result)
{
    switch (result) {
    case LENSNET_OK: return "success";
    case LENSNET_ERROR_ARGUMENT: return "invalid argument";
    case LENSNET_ERROR_SHAPE: return "shapes do not fit";
    case LENSNET_ERROR_MEMORY: return "out of memory";
    case LENSNET_ERROR_FILE: return "file error";
    case LENSNET_ERROR_FORMAT: return "malformed file";
    case LENSNET_ERROR_UNSUPPORTED: return "not supported";
    case LENSNET_ERROR_STATE: return "call out of order";
    case LENSNET_ERROR_NUMBER: return "not a finite number";
    }
    return "unknown result";
}

/* Records the sentence (if anybody wants it) and hands back the code, so that a failing path is one
 * line: return lnp_fail(error, LENSNET_ERROR_SHAPE, "...", ...). */
LNP_PRINTF(3, 4)
static lensnet_result lnp_fail(lensnet_error *error, lensnet_result code, const char *format, ...)
{
    if (error) {
        va_list arguments;
        error->code = code;
        va_start(arguments, format);
        vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
    }
    return code;
}

/* Checked sizes: 1 and the value, or 0 on overflow. */
static int lnp_multiply(size_t a, size_t b, size_t *product)
{
    if (a && b > SIZE_MAX / a) return 0;
    *product = a * b;
    return 1;
}

static int lnp_sum(size_t a, size_t b, size_t *sum)
{
    if (b > SIZE_MAX - a) return 0;
    *sum = a + b;
    return 1;
}

static size_t lnp_min(size_t a, size_t b) { return a < b ? a : b; }
static size_t lnp_max(size_t a, size_t b) { return a > b ? a : b; }
static size_t lnp_ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
static size_t lnp_round_up(size_t a, size_t step) { return lnp_ceil_div(a, step) * step; }

static void *lnp_host_allocate(size_t bytes, size_t alignment, void *user)
{
    /* malloc with the original address kept in front of the aligned block */
    unsigned char *raw;
    unsigned char *block;
    (void)user;
    if (bytes > SIZE_MAX - alignment - sizeof raw) return NULL;
    raw = (unsigned char *)LENSNET_MALLOC(bytes + alignment + sizeof raw);
    if (!raw) return NULL;
    block = raw + sizeof raw;
    block += (alignment - (uintptr_t)block % alignment) % alignment;
    memcpy(block - sizeof raw, &raw, sizeof raw);
    return block;
}

static void lnp_host_release(void *block, size_t bytes, void *user)
{
    unsigned char *raw;
    (void)bytes;
    (void)user;
    if (!block) return;
    memcpy(&raw, (unsigned char *)block - sizeof raw, sizeof raw);
    LENSNET_FREE(raw);
}

/* Memory of the library always comes from here: 64-byte aligned, uninitialised. Zero bytes give a
 * valid, minimal block, so callers need no special case. */
static void *lnp_allocate(const lensnet_host *host, size_t bytes)
{
    const size_t taken = bytes ? bytes : 1;
    void *block = host->allocate(taken, LNP_ALIGNMENT, host->user);
    if ((uintptr_t)block % LNP_ALIGNMENT == 0) return block;
    host->release(block, taken, host->user); /* vectors would fault on it */
    return NULL;
}

static void lnp_release(const lensnet_host *host, void *block, size_t bytes)
{
    if (block) host->release(block, bytes ? bytes : 1, host->user);
}

/* Room for one more element of a growing table; 1, or 0 without memory and nothing changed. */
static int lnp_grow(const lensnet_host *host, void **table, size_t count, size_t *capacity,
                    size_t element)
{
    size_t wanted, bytes;
    void *larger;
    if (count < *capacity) return 1;
    wanted = *capacity ? 2 * *capacity : 16;
    if (!lnp_multiply(wanted, element, &bytes)) return 0;
    larger = lnp_allocate(host, bytes);
    if (!larger) return 0;
    if (count) memcpy(larger, *table, count * element);
    lnp_release(host, *table, *capacity * element);
    *table = larger;
    *capacity = wanted;
    return 1;
}

/* --- the bits of a number ------------------------------------------------------------------------ */

static uint32_t lnp_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float lnp_bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* --- floating-point mode ------------------------------------------------------------------------ */

/* The bits that choose rounding and flush-to-zero. The host may have changed them; results must not
 * depend on that. */
#if defined(__x86_64__) && defined(__GNUC__)
#define LNP_DEFAULT_MODE 0x1F80u
#define LNP_FLUSH_MODE   0x8040u /* of denormal results and operands, as VDPBF16PS does */
LNP_INLINE uint64_t lnp_mode_get(void) { return __builtin_ia32_stmxcsr(); }
LNP_INLINE void lnp_mode_set(uint64_t mode) { __builtin_ia32_ldmxcsr((unsigned)mode); }
#elif defined(__aarch64__) && defined(__GNUC__)
#define LNP_DEFAULT_MODE 0u
LNP_INLINE uint64_t lnp_mode_get(void)
{
    uint64_t mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
LNP_INLINE void lnp_mode_set(uint64_t mode) { __asm__ __volatile__("msr fpcr, %0" : : "r"(mode)); }
#else /* rounding only: C has no word for flushing */
#define LNP_DEFAULT_MODE ((uint64_t)FE_TONEAREST)
LNP_INLINE uint64_t lnp_mode_get(void) { return (uint64_t)fegetround(); }
LNP_INLINE void lnp_mode_set(uint64_t mode) { (void)fesetround((int)mode); }
#endif

/* Entry points stand between these two; the second gives the host its mode back. Workers see to theirs
 * themselves (lnp_team_help). */
static uint64_t lnp_mode_enter(void)
{
    uint64_t host = lnp_mode_get();
    lnp_mode_set(LNP_DEFAULT_MODE);
    return host;
}

static void lnp_mode_leave(uint64_t host) { lnp_mode_set(host); }
/* =================================================================================================
 * >>threads  A team of threads that works through phases: a phase is a function and a number of tasks.
 * This is the only place that knows OpenMP.
 *
 * One parallel region holds a whole pass (lnp_team_pass). Its first thread, the caller, runs the pass;
 * the others wait for phases (lnp_team_run). A worker takes tasks from a range of its own, the same rows
 * in every phase, which it then finds in its cache, and afterwards from the others' ranges. A phase ends
 * when its tasks are done, not when every worker has come: one that the system does not let run, because
 * the machine is busy, is not waited for unless it holds a task. Who does a task cannot be seen in its
 * result: tasks write outputs of their own, in an order of operations that the law fixes.
 *
 * Whoever waits spins for LNP_SPIN_SECONDS, as long as sleeping and waking would cost, and then sleeps: a
 * sleeper is let run when it is woken, one that has used up its share of a busy core is not; and the
 * processor of a caller that sleeps is free for the worker it waits for. What the others do and what waiting for
 * them costs is booked; where it costs more (a task's holder has lost its processor, a network is too small),
 * the caller works alone for LNP_REST times as long, then the others get another chance.
 * ============================================================================================== */

/* Task `index` of a phase, done by worker 0 ... threads - 1, for scratch of its own. Called from several
 * threads. */
typedef void (*lnp_task)(const void *context, size_t index, size_t worker);

/* A whole pass, on the calling thread. */
typedef void (*lnp_pass)(void *context);

#define LNP_TEAM_SHARES 32 /* workers beyond so many share a range */

/* A range of tasks, on cache lines of its own wherever the team may lie. */
typedef struct lnp_team_share {
    char before[64];
    size_t next, end;
    char after[64 - 2 * sizeof(size_t)];
} lnp_team_share;

typedef struct lnp_team {
    int threads;         /* at most; for so many, work is cut and scratch planned */
    int process;         /* that began it */
    size_t workers;      /* of the open region; 0: none is open */
    unsigned spins;      /* whether there is a processor for every worker */
    double credit;       /* seconds that the others have saved lately */
    double rests_until;  /* until then the caller works alone */
    double pass_seconds; /* of the last pass */
    lnp_task task;       /* of the phase */
    const void *context;
    size_t shares;
    char apart[64];
    unsigned phase;    /* counts phases; what workers wait for */
    unsigned sleepers; /* workers that must be woken */
    unsigned present;  /* workers that have not left the pass; what the caller waits for at last */
    char apart_too[64];
    unsigned gate; /* workers inside the phase, and two flags */
    lnp_team_share share[LNP_TEAM_SHARES];
} lnp_team;

/* --- what the system gives ------------------------------------------------------------------------ */

#if defined(_OPENMP) && defined(__GNUC__)
#define LNP_TEAMS 1 /* atomic operations; elsewhere a phase is a parallel loop */
#endif

static size_t lnp_worker(void)
{
#if defined(_OPENMP) && !defined(LNP_TEAMS)
    return (size_t)omp_get_thread_num();
#else
    return 0;
#endif
}

#ifdef LNP_POSIX
extern int lnp_posix_getpid(void) LNP_SYMBOL("getpid");
#endif

/* libgomp's threads do not live on in a child made by fork; a team that was begun before must not ask
 * for them. */
static int lnp_process(void)
{
#ifdef LNP_POSIX
    return lnp_posix_getpid();
#else
    return 0;
#endif
}

/* More threads than processors gain nothing; and where OMP_NUM_THREADS asks for very many, the system may
 * refuse, upon which OpenMP ends the program. */
static int lnp_threads(const lensnet_host *host)
{
#ifdef _OPENMP
    const int available = omp_get_max_threads(), processors = omp_get_num_procs();
    if (host->threads > 0) return host->threads;
    return processors > 0 && processors < available ? processors : available;
#else
    (void)host;
    return 1;
#endif
}

/* `process` is that of the first object: what was made from it does not live longer. */
static void lnp_team_begin(lnp_team *team, int threads, int process)
{
    memset(team, 0, sizeof *team);
    team->threads = threads;
    team->process = process;
}

#ifdef LNP_TEAMS

#define LNP_SPIN_SECONDS 50e-6
#define LNP_MOST_CREDIT  5e-3
#define LNP_REST         20 /* times a debt: it costs a 20th at most */

#if defined(__linux__)
#ifndef SYS_futex
#define SYS_futex SYS_futex_time64
#endif
#define LNP_FUTEX_WAIT 128 /* FUTEX_WAIT, FUTEX_WAKE | FUTEX_PRIVATE_FLAG */
#define LNP_FUTEX_WAKE 129
extern long lnp_posix_syscall(long number, ...) LNP_SYMBOL("syscall");
#elif defined(LNP_POSIX)
extern int lnp_posix_yield(void) LNP_SYMBOL("sched_yield");
#elif defined(_WIN32)
__declspec(dllimport) int __stdcall SwitchToThread(void);
#endif

/* Gives the processor away while *word is `seen`, if the system can tell; returns at any time. */
static void lnp_sleep(unsigned *word, unsigned seen)
{
#if defined(__linux__)
    (void)lnp_posix_syscall(SYS_futex, word, LNP_FUTEX_WAIT, seen, (void *)NULL);
#else
    (void)word;
    (void)seen;
#if defined(LNP_POSIX)
    (void)lnp_posix_yield();
#elif defined(_WIN32)
    (void)SwitchToThread();
#endif
#endif
}

static void lnp_wake(unsigned *word, int sleepers)
{
#if defined(__linux__)
    (void)lnp_posix_syscall(SYS_futex, word, LNP_FUTEX_WAKE, sleepers);
#else
    (void)word;
    (void)sleepers;
#endif
}

static void lnp_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* --- phases --------------------------------------------------------------------------------------- */

#define LNP_GATE_OPEN    0x10000u /* tasks may be taken */
#define LNP_GATE_AWAITED 0x20000u /* the caller sleeps until nobody is inside */
#define LNP_GATE_INSIDE  0x0ffffu
#define LNP_PHASE_NONE   1u /* the first is 2 */
#define LNP_PHASE_OVER   0u

typedef struct lnp_spin {
    unsigned turns;
    double end;
} lnp_spin;

/* A moment's rest; 0 when the time for spinning is over. */
static int lnp_spin_again(lnp_spin *spin, const lnp_team *team)
{
    lnp_pause();
    if (++spin->turns % 32) return 1;
    if (!team->spins) return 0;
    if (spin->turns == 32) spin->end = omp_get_wtime() + LNP_SPIN_SECONDS;
    return omp_get_wtime() < spin->end;
}

/* Waits for a phase after `seen`; returns its number. */
static unsigned lnp_team_next_phase(lnp_team *team, unsigned seen)
{
    lnp_spin spin = {0, 0};
    unsigned phase;
    while ((phase = __atomic_load_n(&team->phase, __ATOMIC_SEQ_CST)) == seen) {
        if (lnp_spin_again(&spin, team)) continue;
        __atomic_fetch_add(&team->sleepers, 1, __ATOMIC_SEQ_CST);
        lnp_sleep(&team->phase, seen);
        __atomic_fetch_sub(&team->sleepers, 1, __ATOMIC_SEQ_CST);
    }
    return phase;
}

/* Begins phase `phase` of so many tasks. */
static void lnp_team_announce(lnp_team *team, unsigned phase, size_t tasks)
{
    __atomic_store_n(&team->phase, phase, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&team->sleepers, __ATOMIC_SEQ_CST))
        lnp_wake(&team->phase, (int)lnp_min(team->workers, tasks) - 1);
}

/* Does tasks of the worker's own range, then of its neighbours'; how many. */
static size_t lnp_team_work(lnp_team *team, size_t worker)
{
    size_t turn, i, done = 0;
    for (turn = 0; turn < team->shares; turn++) {
        lnp_team_share *share = &team->share[(worker + turn) % team->shares];
        while (__atomic_load_n(&share->next, __ATOMIC_RELAXED) < share->end) {
            i = __atomic_fetch_add(&share->next, 1, __ATOMIC_RELAXED);
            if (i >= share->end) break;
            team->task(team->context, i, worker);
            done++;
        }
    }
    return done;
}

/* What every thread but the caller does. Who comes too late for a phase finds its gate closed; so all that
 * belongs to a phase may change when the gate is closed and nobody is inside. */
static void lnp_team_help(lnp_team *team, size_t worker)
{
    const uint64_t mode = lnp_mode_get();
    unsigned phase = LNP_PHASE_NONE;
    lnp_mode_set(LNP_DEFAULT_MODE);
    while ((phase = lnp_team_next_phase(team, phase)) != LNP_PHASE_OVER) {
        if (__atomic_fetch_add(&team->gate, 1, __ATOMIC_ACQ_REL) & LNP_GATE_OPEN)
            (void)lnp_team_work(team, worker);
        if (__atomic_sub_fetch(&team->gate, 1, __ATOMIC_ACQ_REL) == LNP_GATE_AWAITED)
            lnp_wake(&team->gate, 1);
    }
    lnp_mode_set(mode);
    if (__atomic_sub_fetch(&team->present, 1, __ATOMIC_ACQ_REL) == 0) lnp_wake(&team->present, 1);
}

/* Closes the gate and waits for those inside, who are at their last tasks. */
static void lnp_team_close(lnp_team *team)
{
    lnp_spin spin = {0, 0};
    unsigned gate = __atomic_sub_fetch(&team->gate, LNP_GATE_OPEN, __ATOMIC_ACQ_REL);
    while (gate & LNP_GATE_INSIDE) {
        if (!lnp_spin_again(&spin, team)) {
            gate = __atomic_or_fetch(&team->gate, LNP_GATE_AWAITED, __ATOMIC_ACQ_REL);
            if (gate & LNP_GATE_INSIDE) lnp_sleep(&team->gate, gate);
        }
        gate = __atomic_load_n(&team->gate, __ATOMIC_ACQUIRE);
    }
    if (gate & LNP_GATE_AWAITED)
        __atomic_and_fetch(&team->gate, ~LNP_GATE_AWAITED, __ATOMIC_ACQ_REL);
}

/* Books what sharing has saved, or cost. A team in debt rests: the caller works alone. */
static void lnp_team_book(lnp_team *team, double saved)
{
    team->credit += saved;
    if (team->credit > LNP_MOST_CREDIT) team->credit = LNP_MOST_CREDIT;
    if (team->credit >= 0) return;
    team->rests_until = omp_get_wtime() - LNP_REST * team->credit;
    team->credit = 0;
}

static void lnp_team_deal(lnp_team *team, lnp_task task, const void *context, size_t count)
{
    const size_t each = count / team->shares, longer = count % team->shares;
    size_t i;
    team->task = task;
    team->context = context;
    for (i = 0; i < team->shares; i++) {
        team->share[i].next = each * i + lnp_min(i, longer);
        team->share[i].end = each * (i + 1) + lnp_min(i + 1, longer);
    }
}

/* Sharing saves what the others' tasks would have taken the caller, and costs what it waits for them. */
static void lnp_team_phase(lnp_team *team, lnp_task task, const void *context, size_t count)
{
    const double start = omp_get_wtime();
    double worked;
    size_t i, own;
    if (start < team->rests_until) {
        for (i = 0; i < count; i++) task(context, i, 0);
        return;
    }
    lnp_team_deal(team, task, context, count);
    __atomic_fetch_add(&team->gate, LNP_GATE_OPEN, __ATOMIC_ACQ_REL);
    lnp_team_announce(team, team->phase + 1, count);
    own = lnp_team_work(team, 0);
    worked = omp_get_wtime();
    lnp_team_close(team);
    if (own)
        lnp_team_book(team, (worked - start) * (double)(count - own) / (double)own -
                                (omp_get_wtime() - worked));
}

/* Waits until all have left. The region's own barrier, which comes next, would spin for a worker that is
 * not let run; a caller that sleeps leaves it a processor. */
static void lnp_team_farewell(lnp_team *team)
{
    lnp_spin spin = {0, 0};
    unsigned present;
    while ((present = __atomic_load_n(&team->present, __ATOMIC_ACQUIRE)) > 0)
        if (!lnp_spin_again(&spin, team)) lnp_sleep(&team->present, present);
}

/* The caller's part of the region. */
static void lnp_team_lead(lnp_team *team, lnp_pass pass, void *context)
{
    const double start = omp_get_wtime();
    double end;
    team->workers = (size_t)omp_get_num_threads();
    team->shares = lnp_min(team->workers, LNP_TEAM_SHARES);
    pass(context);
    end = omp_get_wtime();
    team->pass_seconds = end - start;
    team->present = (unsigned)team->workers - 1;
    lnp_team_announce(team, LNP_PHASE_OVER, team->workers);
    lnp_team_farewell(team);
    lnp_team_book(team, end - omp_get_wtime());
}

/* Whether the others are wanted: not while the team rests for longer than the pass will take. */
static int lnp_team_gathers(const lnp_team *team)
{
    return team->threads > 1 && team->process == lnp_process() &&
           team->rests_until <= omp_get_wtime() + team->pass_seconds;
}

static void lnp_team_open(lnp_team *team, lnp_pass pass, void *context)
{
    team->spins = team->threads <= omp_get_num_procs();
    team->phase = LNP_PHASE_NONE;
#pragma omp parallel num_threads(team->threads)
    {
        const size_t worker = (size_t)omp_get_thread_num();
        if (worker)
            lnp_team_help(team, worker);
        else
            lnp_team_lead(team, pass, context);
    }
}
#endif

/* Runs a pass with all threads that OpenMP grants, or with those that are at it already. */
static void lnp_team_pass(lnp_team *team, lnp_pass pass, void *context)
{
    const int open = team->workers > 0;
    if (!open) team->workers = 1;
#ifdef LNP_TEAMS
    if (!open && lnp_team_gathers(team))
        lnp_team_open(team, pass, context);
    else
#endif
        pass(context);
    if (!open) team->workers = 0;
}

/* Into how many tasks to cut what consists of `count` even parts: several for each worker, so that others
 * can take over what one leaves. */
static size_t lnp_team_shares(const lnp_team *team, size_t count)
{
    return team->threads > 1 ? lnp_min(count, 4 * (size_t)team->threads) : lnp_min(count, 1);
}

typedef struct lnp_single_phase {
    lnp_team *team;
    lnp_task task;
    const void *context;
    size_t count;
} lnp_single_phase;

static void lnp_team_run(lnp_team *team, lnp_task task, const void *context, size_t count);

static void lnp_single_pass(void *context)
{
    const lnp_single_phase *phase = (const lnp_single_phase *)context;
    lnp_team_run(phase->team, phase->task, phase->context, phase->count);
}

/* Does tasks 0 ... count - 1 and returns when all are done: with the workers of the open pass, or, where
 * none is open, in one of its own. */
static void lnp_team_run(lnp_team *team, lnp_task task, const void *context, size_t count)
{
    ptrdiff_t i;
    (void)team;
#ifdef LNP_TEAMS
    if (count > 1 && team->workers > 1) {
        lnp_team_phase(team, task, context, count);
        return;
    }
    if (count > 1 && team->workers == 0 && team->threads > 1) {
        lnp_single_phase phase;
        phase.team = team;
        phase.task = task;
        phase.context = context;
        phase.count = count;
        lnp_team_pass(team, lnp_single_pass, &phase);
        return;
    }
#endif
#if defined(_OPENMP) && !defined(LNP_TEAMS)
#pragma omp parallel for num_threads(team->threads) schedule(static)
#endif
    for (i = 0; i < (ptrdiff_t)count; i++) task(context, (size_t)i, lnp_worker());
}
/* =================================================================================================
 * >>host  The default hooks: memory from malloc, files from stdio, written to a sibling and
 * renamed. A crash at any moment leaves the old file or the new one. A lock tells a sibling that is
 * being written from what a killed process left. Where the system is neither POSIX nor Windows there is
 * no way to force bytes to the disk, and only the rename is left.
 * ============================================================================================== */

#if defined(LNP_POSIX)
#define LNP_POSIX_FILES 1
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
extern int lnp_posix_fileno(FILE *stream) LNP_SYMBOL("fileno");
extern int lnp_posix_fsync(int descriptor) LNP_SYMBOL("fsync");
extern FILE *lnp_posix_fdopen(int descriptor, const char *mode) LNP_SYMBOL("fdopen");
extern int lnp_posix_fchmod(int descriptor, mode_t mode) LNP_SYMBOL("fchmod");
extern int lnp_posix_fchown(int descriptor, uid_t owner, gid_t group) LNP_SYMBOL("fchown");
extern ssize_t lnp_posix_readlink(const char *path, char *text, size_t size) LNP_SYMBOL("readlink");
extern char *lnp_posix_realpath(const char *path, char *text) LNP_SYMBOL("realpath");
#elif defined(_WIN32)
#include <io.h>
__declspec(dllimport) int __stdcall MoveFileExA(const char *from, const char *to,
                                                unsigned long flags);
#endif

#define LNP_SIZE_UNKNOWN   UINT64_MAX /* what a file_size hook answers when it cannot tell */
#define LNP_SIBLING_TRIES  100        /* names tried for the temporary file */
#define LNP_SIBLING_SUFFIX 16         /* ".tmp-NN" and its zero */
#define LNP_SEEK_STEP      ((long)1 << 30)

typedef struct lnp_host_file {
    FILE *stream;
    uint64_t position; /* of the stream, so that reading on needs no seek */
    char *path;        /* writing: where the file will appear; NULL when reading */
    char *sibling;     /* writing: where it is built */
} lnp_host_file;

#if defined(LNP_POSIX_FILES)

/* What stands under a path or behind a descriptor, in words, unless it is a regular file (NULL). */
static const char *lnp_special_file(const struct stat *info)
{
    if (S_ISREG(info->st_mode)) return NULL;
    if (S_ISDIR(info->st_mode)) return "it is a folder";
    if (S_ISFIFO(info->st_mode)) return "it is a pipe";
    if (S_ISCHR(info->st_mode) || S_ISBLK(info->st_mode)) return "it is a device";
    return "it is no regular file";
}

/* Does the path still lead to the file that is open? */
static int lnp_still_named(int descriptor, const char *path)
{
    struct stat opened, named;
    return fstat(descriptor, &opened) == 0 && stat(path, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

static int lnp_is_link(const char *path)
{
    char letter;
    return lnp_posix_readlink(path, &letter, 1) >= 0;
}

/* A sibling that nobody holds was left by a process that died. On a file system without locks it stays. */
static void lnp_remove_stale(const char *sibling)
{
    struct stat info;
    int descriptor = lnp_is_link(sibling) ? -1 : open(sibling, O_RDWR | O_NONBLOCK);
    if (descriptor < 0) return;
    if (fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) &&
        flock(descriptor, LOCK_EX | LOCK_NB) == 0 && lnp_still_named(descriptor, sibling))
        remove(sibling);
    close(descriptor);
}

/* Opens a file that did not exist (so follows no link that somebody left under that name), and holds
 * it: the lock goes with the process, however that ends. */
static FILE *lnp_open_new(const char *path)
{
    FILE *stream = fopen(path, "wbx");
    if (!stream) return NULL;
    if ((flock(lnp_posix_fileno(stream), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) &&
        lnp_still_named(lnp_posix_fileno(stream), path))
        return stream;
    fclose(stream); /* somebody took it for stale before it was locked, and removes it */
    errno = EEXIST;
    return NULL;
}

#else

static void lnp_remove_stale(const char *sibling) { (void)sibling; }

static FILE *lnp_open_new(const char *path)
{
#if defined(_MSC_VER) || __STDC_VERSION__ + 0 >= 201112L
    return fopen(path, "wbx");
#else
    FILE *present = fopen(path, "rb");
    if (!present) return fopen(path, "wb");
    fclose(present);
    errno = EEXIST;
    return NULL;
#endif
}

#endif

static FILE *lnp_open_sibling(char *sibling, const char *path)
{
    const size_t capacity = strlen(path) + LNP_SIBLING_SUFFIX;
    FILE *stream = NULL;
    int i;
    for (i = 0; i < LNP_SIBLING_TRIES; i++) {
        snprintf(sibling, capacity, "%s.tmp-%d", path, i);
        lnp_remove_stale(sibling);
    }
    for (i = 0; i < LNP_SIBLING_TRIES && !stream; i++) {
        snprintf(sibling, capacity, "%s.tmp-%d", path, i);
        stream = lnp_open_new(sibling);
        if (!stream && errno != EEXIST) break;
    }
    return stream;
}

static void lnp_host_file_release(lnp_host_file *file)
{
    if (!file) return;
    lnp_host_release(file->path, 0, NULL);
    lnp_host_release(file->sibling, 0, NULL);
    lnp_host_release(file, 0, NULL);
}

/* The file that a save to `path` replaces, in a block of its own: `path`, or what a link there points to;
 * NULL without memory, or where the link leads nowhere. */
static char *lnp_host_target(const char *path)
{
    const char *target = path;
    char *resolved = NULL, *copy;
#if defined(LNP_POSIX_FILES)
    if (lnp_is_link(path)) target = resolved = lnp_posix_realpath(path, NULL);
    if (!target) return NULL;
#endif
    copy = (char *)lnp_host_allocate(strlen(target) + 1, LNP_ALIGNMENT, NULL);
    if (copy) memcpy(copy, target, strlen(target) + 1);
    free(resolved); /* realpath took it with malloc */
    return copy;
}

/* May a save replace what stands there? 0, and errno tells why, if not. */
static int lnp_may_replace(const char *path)
{
#if defined(LNP_POSIX_FILES)
    struct stat info;
    if (stat(path, &info) != 0) return errno == ENOENT;
    if (S_ISREG(info.st_mode)) return access(path, W_OK) == 0;
    errno = S_ISDIR(info.st_mode) ? EISDIR : ENOTSUP;
    return 0;
#else
    (void)path;
    return 1;
#endif
}

/* The new file gets the mode of the one it replaces and, where that is allowed, its owner. */
static void lnp_host_inherit(FILE *stream, const char *path)
{
#if defined(LNP_POSIX_FILES)
    struct stat old;
    if (stat(path, &old) != 0) return;
    (void)lnp_posix_fchown(lnp_posix_fileno(stream), old.st_uid, old.st_gid);
    (void)lnp_posix_fchmod(lnp_posix_fileno(stream), old.st_mode & 0777);
#else
    (void)stream;
    (void)path;
#endif
}

static FILE *lnp_host_file_begin(lnp_host_file *file, const char *path)
{
    FILE *stream;
    file->path = lnp_host_target(path);
    if (!file->path) return NULL;
    file->sibling =
        (char *)lnp_host_allocate(strlen(file->path) + LNP_SIBLING_SUFFIX, LNP_ALIGNMENT, NULL);
    if (!file->sibling || !lnp_may_replace(file->path)) return NULL;
    stream = lnp_open_sibling(file->sibling, file->path);
    if (stream) lnp_host_inherit(stream, file->path);
    return stream;
}

#if defined(LNP_POSIX_FILES)

/* Only a regular file is read: what else there is may keep us waiting for ever. */
static FILE *lnp_open_present(const char *path)
{
    struct stat info;
    int descriptor = open(path, O_RDONLY | O_NONBLOCK);
    FILE *stream = NULL;
    if (descriptor < 0) return NULL;
    if (fstat(descriptor, &info) == 0) {
        if (S_ISREG(info.st_mode))
            stream = lnp_posix_fdopen(descriptor, "rb");
        else
            errno = S_ISDIR(info.st_mode) ? EISDIR : ENOTSUP;
    }
    if (!stream) {
        const int why = errno;
        close(descriptor);
        errno = why;
    }
    return stream;
}

#else

/* A folder can be opened like a file, but no byte of it can be read. */
static FILE *lnp_open_present(const char *path)
{
    FILE *stream = fopen(path, "rb");
    if (!stream) return NULL;
    (void)getc(stream);
    if (ferror(stream)) {
        fclose(stream);
        return NULL;
    }
    rewind(stream);
    return stream;
}

#endif

static void *lnp_host_file_open(const char *path, int writing, void *user)
{
    lnp_host_file *file =
        (lnp_host_file *)lnp_host_allocate(sizeof(lnp_host_file), LNP_ALIGNMENT, NULL);
    (void)user;
    if (!file) return NULL;
    memset(file, 0, sizeof *file);
    file->stream = writing ? lnp_host_file_begin(file, path) : lnp_open_present(path);
    if (!file->stream) {
        const int why = errno;
        lnp_host_file_release(file);
        errno = why;
        return NULL;
    }
    return file;
}

/* fseek takes a long, which has 32 bits on some systems: there it is called more than once. */
static int lnp_host_seek(FILE *stream, uint64_t offset)
{
#if defined(_WIN32)
    return offset > (uint64_t)INT64_MAX || _fseeki64(stream, (int64_t)offset, SEEK_SET) != 0;
#else
    if (fseek(stream, 0, SEEK_SET) != 0) return 1;
    while (offset > 0) {
        uint64_t step = offset < (uint64_t)LNP_SEEK_STEP ? offset : (uint64_t)LNP_SEEK_STEP;
        if (fseek(stream, (long)step, SEEK_CUR) != 0) return 1;
        offset -= step;
    }
    return 0;
#endif
}

static uint64_t lnp_host_file_size(void *handle, void *user)
{
    lnp_host_file *file = (lnp_host_file *)handle;
    int64_t size = -1;
    (void)user;
    if (fseek(file->stream, 0, SEEK_END) == 0) {
#if defined(_WIN32)
        size = _ftelli64(file->stream);
#else
        size = ftell(file->stream);
#endif
    }
    if (lnp_host_seek(file->stream, 0) != 0 || size < 0) return LNP_SIZE_UNKNOWN;
    file->position = 0;
    return (uint64_t)size;
}

static int lnp_host_file_read(void *handle, uint64_t offset, void *bytes, size_t count, void *user)
{
    lnp_host_file *file = (lnp_host_file *)handle;
    (void)user;
    if (offset != file->position && lnp_host_seek(file->stream, offset) != 0) {
        file->position = LNP_SIZE_UNKNOWN;
        return 1;
    }
    file->position = offset + fread(bytes, 1, count, file->stream);
    return file->position != offset + count;
}

static int lnp_host_file_write(void *handle, const void *bytes, size_t count, void *user)
{
    lnp_host_file *file = (lnp_host_file *)handle;
    (void)user;
    return fwrite(bytes, 1, count, file->stream) != count;
}

static int lnp_host_flush(FILE *stream)
{
    if (fflush(stream) != 0 || ferror(stream)) return 1;
#if defined(LNP_POSIX_FILES)
    while (lnp_posix_fsync(lnp_posix_fileno(stream)) != 0)
        if (errno != EINTR) return 1;
    return 0;
#elif defined(_WIN32)
    return _commit(_fileno(stream)) != 0;
#else
    return 0;
#endif
}

/* The name is in the folder, and the folder is a file of its own. Some file systems cannot flush a
 * folder; the new file stands under its name all the same, so this cannot fail. */
static void lnp_host_flush_folder(char *path)
{
#if defined(LNP_POSIX_FILES)
    char *end = strrchr(path, '/');
    FILE *folder;
    if (end) end[end == path] = 0;
    folder = fopen(end ? path : ".", "rb");
    if (!folder) return;
    (void)lnp_posix_fsync(lnp_posix_fileno(folder));
    fclose(folder);
#else
    (void)path;
#endif
}

static int lnp_host_rename(const char *from, const char *to)
{
#if defined(_WIN32)
    return !MoveFileExA(from, to, 1 | 8); /* replace what is there, return when it is on the disk */
#else
    return rename(from, to) != 0;
#endif
}

/* Closes what was written; it appears under its path, or not at all. On POSIX a second descriptor keeps
 * the lock until then. */
static int lnp_host_file_finish(lnp_host_file *file, int commit)
{
    int failed, why;
#if defined(LNP_POSIX_FILES)
    const int lock = dup(lnp_posix_fileno(file->stream));
#endif
    failed = commit && lnp_host_flush(file->stream);
    if (fclose(file->stream) != 0) failed = 1;
    if (commit && !failed) failed = lnp_host_rename(file->sibling, file->path);
    why = errno;
    if (!commit || failed) remove(file->sibling);
#if defined(LNP_POSIX_FILES)
    if (lock >= 0) close(lock);
#endif
    if (commit && !failed) lnp_host_flush_folder(file->path);
    errno = why;
    return failed;
}

static int lnp_host_file_close(void *handle, int commit, void *user)
{
    lnp_host_file *file = (lnp_host_file *)handle;
    int failed = 0;
    (void)user;
    if (file->path)
        failed = lnp_host_file_finish(file, commit);
    else
        fclose(file->stream);
    lnp_host_file_release(file);
    return failed;
}

/* Why a file could not be used, in a few words: what stands under the path of a default hook, else
 * what a hook left in errno; NULL where it left nothing. */
static const char *lnp_file_problem(const lensnet_host *host, const char *path)
{
    const int why = errno;
#if defined(LNP_POSIX_FILES)
    struct stat info;
    if (host->file_open == lnp_host_file_open && stat(path, &info) == 0 && lnp_special_file(&info))
        return lnp_special_file(&info);
#endif
    (void)host;
    (void)path;
    if (why == EEXIST) return "all names for its temporary file are taken";
    return why ? strerror(why) : NULL;
}

lensnet_host lensnet_host_defaults(void)
{
    lensnet_host host;
    host.allocate = lnp_host_allocate;
    host.release = lnp_host_release;
    host.file_open = lnp_host_file_open;
    host.file_size = lnp_host_file_size;
    host.file_read = lnp_host_file_read;
    host.file_write = lnp_host_file_write;
    host.file_close = lnp_host_file_close;
    host.user = NULL;
    host.threads = 0;
    host.isa_cap = LENSNET_ISA_BEST;
    return host;
}

/* Objects keep a copy of their host; NULL stands for the defaults. */
static lensnet_host lnp_host_copy(const lensnet_host *host)
{
    return host ? *host : lensnet_host_defaults();
}
/* =================================================================================================
 * >>math  Elementary functions and random numbers, the same bits everywhere. Method: reduce the
 * argument, sum a Taylor series (so every coefficient is a known fraction), put back the leading
 * term last and with its rounding error. Bounds (tests/test_math.c, dense sweeps): exp 0.65 ulp,
 * log 0.85, sin and cos 0.80, pow 0.85, erf 0.90; exp below 2.2e-308 within one unit of 4.9e-324.
 * ============================================================================================== */

static uint64_t lnp_bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static double lnp_double_of(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static double lnp_infinity(void) { return lnp_double_of((uint64_t)0x7FF << 52); }
static double lnp_nan(void) { return lnp_double_of((uint64_t)0x7FF8 << 48); }
static int lnp_is_finite(double x) { return fabs(x) <= 1.7976931348623157e308; }

/* rint for |x| < 2^51, halves to even, as two additions: vectorises everywhere, and is no call. */
LNP_INLINE double lnp_nearest(double x)
{
    const double shift = 6755399441055744.0; /* 1.5 * 2^52 */
    return (x + shift) - shift;
}

/* 2^k for -1022 <= k <= 1023 */
static double lnp_power_of_two(int k) { return lnp_double_of((uint64_t)(k + 1023) << 52); }

/* sum + error = a + b exactly (Knuth) */
LNP_INLINE double lnp_two_sum(double a, double b, double *error)
{
    double sum = a + b;
    double part = sum - a;
    *error = (a - (sum - part)) + (b - part);
    return sum;
}

/* product + error = a * b exactly (Dekker, Veltkamp), as long as nothing over- or underflows */
LNP_INLINE double lnp_two_product(double a, double b, double *error)
{
    const double splitter = 134217729.0; /* 2^27 + 1 */
    double product = a * b;
    double wide_a = splitter * a, wide_b = splitter * b;
    double high_a = wide_a - (wide_a - a), high_b = wide_b - (wide_b - b);
    double low_a = a - high_a, low_b = b - high_b;
    *error = ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b;
    return product;
}

/* ln 2 in two parts; the first has 42 bits, so that times any exponent it is exact */
#define LNP_LN2_HIGH 0.6931471805598903
#define LNP_LN2_LOW  5.497923018708371e-14

/* e^(x + low), |low| below one ulp of x */
static double lnp_exp_sum(double x, double low)
{
    double k, high, r, tail, series, one_plus_r;
    int exponent;
    if (x > 710.0) return lnp_infinity();
    if (x < -746.0) return 0.0;
    k = lnp_nearest(x * 1.4426950408889634);
    high = x - k * LNP_LN2_HIGH;
    low = low - k * LNP_LN2_LOW;
    r = high + low; /* |r| <= ln 2 / 2 */
    tail = (high - r) + low;
    series = 1.6059043836821613e-10; /* 1 / 13! */
    series = 2.08767569878681e-09 + r * series;
    series = 2.505210838544172e-08 + r * series;
    series = 2.755731922398589e-07 + r * series;
    series = 2.7557319223985893e-06 + r * series;
    series = 2.48015873015873e-05 + r * series;
    series = 0.0001984126984126984 + r * series;
    series = 0.001388888888888889 + r * series;
    series = 0.008333333333333333 + r * series;
    series = 0.041666666666666664 + r * series;
    series = 0.16666666666666666 + r * series;
    series = 0.5 + r * series;
    one_plus_r = 1.0 + r;
    series = r * r * series + (((1.0 - one_plus_r) + r) + tail * one_plus_r);
    exponent = (int)k;
    /* two steps: 2^1024 and 2^-1074 are reached, and only the last one rounds */
    return (one_plus_r + series) * lnp_power_of_two(exponent / 2) *
           lnp_power_of_two(exponent - exponent / 2);
}

double lensnet_exp(double x)
{
    if (x != x) return x;
    return lnp_exp_sum(x, 0.0);
}

/* x = (1 + f) * 2^exponent with sqrt(1/2) <= 1 + f < sqrt(2); x positive and finite */
static double lnp_log_reduce(double x, double *exponent)
{
    uint64_t bits = lnp_bits_of(x);
    int k = 0;
    if (bits < (uint64_t)1 << 52) { /* subnormal */
        bits = lnp_bits_of(x * 18014398509481984.0);
        k = -54;
    }
    k += (int)(bits >> 52) - 1023;
    bits = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1023 << 52;
    if (bits > 0x3FF6A09E667F3BCCu) { /* sqrt(2) */
        bits -= (uint64_t)1 << 52;
        k++;
    }
    *exponent = k;
    return lnp_double_of(bits) - 1.0;
}

/* log(1 + f) = 2 atanh(s) = 2 s + s z (2/3 + 2/5 z + 2/7 z^2 + ...) where s = f / (2 + f) and
 * z = s^2 < 0.0295: the sum after 2/3 */
LNP_INLINE double lnp_log_series(double z)
{
    double series = 0.08; /* 2 / 25 */
    series = 0.08695652173913043 + z * series;
    series = 0.09523809523809523 + z * series;
    series = 0.10526315789473684 + z * series;
    series = 0.11764705882352941 + z * series;
    series = 0.13333333333333333 + z * series;
    series = 0.15384615384615385 + z * series;
    series = 0.18181818181818182 + z * series;
    series = 0.2222222222222222 + z * series;
    series = 0.2857142857142857 + z * series;
    series = 0.4 + z * series;
    return z * series;
}

double lensnet_log(double x)
{
    double exponent, f, s, z, half_square, rest;
    if (x != x) return x;
    if (x < 0.0) return lnp_nan();
    if (x == 0.0) return -lnp_infinity();
    if (!lnp_is_finite(x)) return x;
    f = lnp_log_reduce(x, &exponent);
    s = f / (2.0 + f);
    z = s * s;
    /* 2 s = f - f^2 / 2 + s f^2 / 2: f and the logarithm's own leading error stand apart */
    half_square = 0.5 * f * f;
    rest = s * (half_square + z * (0.6666666666666666 + lnp_log_series(z)));
    rest = rest + exponent * LNP_LN2_LOW;
    return exponent * LNP_LN2_HIGH + (f - (half_square - rest));
}

/* log x as high + *low, with about 65 bits; x positive and finite */
static double lnp_log_sum(double x, double *low)
{
    double exponent, f, width, width_low, s, s_low, z, z_low, p, p_low, cube, cube_low, product_low;
    double whole, whole_low, high, high_low;
    f = lnp_log_reduce(x, &exponent);
    width = 2.0 + f;
    width_low = f - (width - 2.0);
    s = f / width;
    s_low = lnp_two_product(s, width, &product_low);
    s_low = (((f - s_low) - product_low) - s * width_low) / width;
    z = lnp_two_product(s, s, &z_low);
    z_low = z_low + 2.0 * s * s_low;
    p = lnp_two_sum(0.6666666666666666, lnp_log_series(z), &p_low);
    p_low = p_low + 3.700743415417188e-17; /* what 2/3 lost */
    cube = lnp_two_product(z, p, &cube_low);
    cube_low = cube_low + (z * p_low + z_low * p);
    p_low = cube_low;
    p = cube;
    cube = lnp_two_product(s, p, &cube_low);
    cube_low = cube_low + (s * p_low + s_low * p);
    whole = lnp_two_sum(exponent * LNP_LN2_HIGH, 2.0 * s, &whole_low);
    high = lnp_two_sum(whole, cube, &high_low);
    high_low = high_low + (whole_low + (2.0 * s_low + (cube_low + exponent * LNP_LN2_LOW)));
    return lnp_two_sum(high, high_low, low);
}

double lensnet_pow(double x, double y)
{
    double log_high, log_low, high, low;
    if (y == 0.0 || x == 1.0) return 1.0;
    if (x != x || y != y || x < 0.0) return lnp_nan();
    if (x == 0.0) return y > 0.0 ? 0.0 : lnp_infinity();
    if (!lnp_is_finite(x)) return y > 0.0 ? x : 0.0;
    if (fabs(y) > 1e20) return (x > 1.0) == (y > 0.0) ? lnp_infinity() : 0.0;
    log_high = lnp_log_sum(x, &log_low);
    high = lnp_two_product(y, log_high, &low);
    return lnp_exp_sum(high, low + y * log_low);
}

/* x = quarter * pi/2 + r + *low, |r| <= pi/4, |x| <= 1e5. pi/2 stands in parts of 36, 36 and 53
 * bits, so that the first two products are exact. */
static int lnp_reduce_angle(double x, double *r, double *low)
{
    double quarter = lnp_nearest(x * 0.6366197723675814);
    double error;
    double first = x - quarter * 1.5707963267923333;
    double second = lnp_two_sum(first, -quarter * 2.5633441515839558e-12, &error);
    error = error - quarter * 1.0562999066987428e-23;
    *r = second + error;
    *low = (second - *r) + error;
    return (int)quarter & 3;
}

static double lnp_sin_series(double r, double low)
{
    double z = r * r;
    double series = 2.8114572543455206e-15; /* 1 / 17! */
    series = -7.647163731819816e-13 + z * series;
    series = 1.6059043836821613e-10 + z * series;
    series = -2.505210838544172e-08 + z * series;
    series = 2.7557319223985893e-06 + z * series;
    series = -0.0001984126984126984 + z * series;
    series = 0.008333333333333333 + z * series;
    series = -0.16666666666666666 + z * series;
    return r + (z * r * series + low * (1.0 - 0.5 * z));
}

static double lnp_cos_series(double r, double low)
{
    double z = r * r;
    double half = 0.5 * z;
    double leading = 1.0 - half;
    double series = -1.5619206968586225e-16; /* 1 / 18! */
    series = 4.779477332387385e-14 + z * series;
    series = -1.1470745597729725e-11 + z * series;
    series = 2.08767569878681e-09 + z * series;
    series = -2.755731922398589e-07 + z * series;
    series = 2.48015873015873e-05 + z * series;
    series = -0.001388888888888889 + z * series;
    series = 0.041666666666666664 + z * series;
    return leading + (((1.0 - leading) - half) + (z * z * series - r * low));
}

/* sin(x + turns * pi/2) */
static double lnp_sin_turned(double x, int turns)
{
    double r, low, value;
    int quarter;
    if (!(fabs(x) <= 1e5)) return lnp_nan();
    quarter = (lnp_reduce_angle(x, &r, &low) + turns) & 3;
    value = quarter & 1 ? lnp_cos_series(r, low) : lnp_sin_series(r, low);
    return quarter & 2 ? -value : value;
}

double lensnet_sin(double x)
{
    if (fabs(x) < 1e-9) return x; /* keeps -0 */
    return lnp_sin_turned(x, 0);
}

double lensnet_cos(double x) { return lnp_sin_turned(x, 1); }

/* erf at x = (i + 2) / 4 as high + low, and its derivative 2/sqrt(pi) e^(-x^2) there */
static const double lnp_erf_nodes[23][3] = {
    {0.5204998778130465, 1.900077467916287e-17, 0.8787825789354448},
    {0.7111556336535151, 4.69744077164289e-17, 0.6429310691952074},
    {0.8427007929497149, -2.4801011789118602e-17, 0.4151074974205947},
    {0.9229001282564583, -5.51775442986392e-17, 0.2365211224472908},
    {0.9661051464753108, -3.3867031441680696e-17, 0.11893028922362937},
    {0.9866716712191824, 2.1431190289565338e-17, 0.05277499593015037},
    {0.9953222650189527, 2.20719858329765e-17, 0.020666985354092053},
    {0.9985372834133188, 2.6956405885413457e-17, 0.007142319022017983},
    {0.999593047982555, 4.6925151097042234e-17, 0.0021782842303527095},
    {0.9998993780778803, 4.451378916214761e-17, 0.0005862772470937923},
    {0.9999779095030014, 5.363397058636269e-17, 0.00013925305194674786},
    {0.9999956972205363, 5.224680575187069e-17, 2.9189025383581702e-05},
    {0.9999992569016276, 4.9647279187212204e-17, 5.399426777384783e-06},
    {0.9999998862727434, 4.2276182391829615e-17, 8.814321912318039e-07},
    {0.9999999845827421, 1.44826531920025e-17, 1.2698234671866558e-07},
    {0.9999999981494259, 9.86675034192752e-19, 1.6143993719507412e-08},
    {0.9999999998033839, 1.2614727975054947e-17, 1.81130589590869e-09},
    {0.9999999999815149, 5.461622108299497e-17, 1.7934357034341337e-10},
    {0.9999999999984626, -2.294992711807301e-17, 1.5670866531017336e-11},
    {0.9999999999998869, 2.859354043191264e-17, 1.2084074716006755e-12},
    {0.9999999999999927, -3.03759554483649e-17, 8.223316045262922e-14},
    {0.9999999999999996, 2.0875548107488853e-17, 4.938485140964219e-15},
    {1.0, -2.1519736712498913e-17, 2.617301239249265e-16},
};

/* erf for 0.5 < x <= 6: at the nearest node plus the integral of its derivative. The derivative's
 * series e^(-2 node h - h^2) = sum of t_n obeys (n+1) t_(n+1) = -2 node h t_n - 2 h^2 t_(n-1). */
static double lnp_erf_by_nodes(double x)
{
    double quarters = lnp_nearest(4.0 * x);
    double h = x - 0.25 * quarters;
    double a = -0.5 * quarters * h, b = -2.0 * h * h;
    double before = 0.0, term = 1.0, rest = 0.0, slope;
    const double *node = lnp_erf_nodes[(int)quarters - 2];
    int n;
    for (n = 1; n < 18; n++) {
        double next = (a * term + b * before) / n;
        before = term;
        term = next;
        rest += term / (n + 1);
    }
    slope = node[2] * h;
    return node[0] + (slope + (slope * rest + node[1]));
}

/* erf for |x| <= 0.5, Taylor, as x + x * (...) */
static double lnp_erf_series(double x)
{
    double z = x * x;
    double series = 9.422759064650411e-11;
    series = -1.2290555301717928e-09 + z * series;
    series = 1.4807192815879218e-08 + z * series;
    series = -1.6365844691234924e-07 + z * series;
    series = 1.6462114365889248e-06 + z * series;
    series = -1.492565035840625e-05 + z * series;
    series = 0.00012055332981789664 + z * series;
    series = -0.0008548327023450853 + z * series;
    series = 0.005223977625442188 + z * series;
    series = -0.026866170645131252 + z * series;
    series = 0.11283791670955126 + z * series;
    series = -0.37612638903183754 + z * series;
    series = 0.1283791670955126 + z * series;
    return x + x * series;
}

double lensnet_erf(double x)
{
    double size = fabs(x), value;
    if (x != x) return x;
    if (size <= 0.5) return lnp_erf_series(x);
    value = size <= 6.0 ? lnp_erf_by_nodes(size) : 1.0;
    return x < 0.0 ? -value : value;
}

#define LNP_GOLDEN 0x9E3779B97F4A7C15u /* 2^64 / golden ratio, odd */

/* the finaliser of splitmix64: a bijection of 64-bit words in which every bit reaches every bit */
LNP_INLINE uint64_t lnp_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Seed and stream, mixed one after the other, give the state of a splitmix64 generator ... */
LNP_INLINE uint64_t lnp_random_key(uint64_t seed, uint64_t stream)
{
    return lnp_mix(lnp_mix(seed + LNP_GOLDEN) ^ stream);
}

/* ... of which this is output number `counter`, reached without the ones before it. */
LNP_INLINE uint64_t lnp_random_at(uint64_t key, uint64_t counter)
{
    return lnp_mix(key + (counter + 1) * LNP_GOLDEN);
}

/* the upper 53 bits as a multiple of 2^-53 in [0,1) */
LNP_INLINE double lnp_unit_interval(uint64_t bits)
{
    return (double)(bits >> 11) * (1.0 / 9007199254740992.0);
}

uint64_t lensnet_random_bits(uint64_t seed, uint64_t stream, uint64_t counter)
{
    return lnp_random_at(lnp_random_key(seed, stream), counter);
}

double lensnet_random_uniform(uint64_t seed, uint64_t stream, uint64_t counter)
{
    return lnp_unit_interval(lensnet_random_bits(seed, stream, counter));
}

double lensnet_random_normal(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint64_t key = lnp_random_key(seed, stream);
    double radius = 1.0 - lnp_unit_interval(lnp_random_at(key, 2 * counter)); /* (0,1] */
    double turn = lnp_unit_interval(lnp_random_at(key, 2 * counter + 1));
    return sqrt(-2.0 * lensnet_log(radius)) * lensnet_cos(6.283185307179586 * turn);
}

uint64_t lensnet_random_stream(const char *text)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    return hash;
}
/* =================================================================================================
 * >>isa  Instruction sets: what the compiler can make, what the processor has, and the one fused
 * multiply-add on which the law of same bits rests. Functions that touch intrinsics carry an
 * LNP_TARGET attribute, so that nobody needs a -march flag; no parallel region stands in them
 * (clang drops the target of an outlined region).
 * ============================================================================================== */

#if defined(__GNUC__) && defined(__x86_64__) && !defined(LENSNET_NO_SIMD)
#define LNP_X86 1
#else
#define LNP_X86 0
#endif

#if LNP_X86 && !defined(LENSNET_NO_AVX512)
#define LNP_AVX512 1
#else
#define LNP_AVX512 0
#endif

/* The compiler knows VDPBF16PS. */
#if LNP_AVX512 && (defined(__clang__) || __GNUC__ >= 10)
#define LNP_BFLOAT 1
#else
#define LNP_BFLOAT 0
#endif

#if defined(__GNUC__) && defined(__aarch64__) && !defined(LENSNET_NO_SIMD)
#define LNP_NEON 1
#else
#define LNP_NEON 0
#endif

#if LNP_X86
#include <immintrin.h>
#define LNP_TARGET_AVX2   __attribute__((target("avx2,fma")))
#define LNP_TARGET_AVX512 __attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl")))
#define LNP_TARGET_BFLOAT                                                                          \
    __attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,avx512bf16")))
#endif
#if LNP_NEON
#include <arm_neon.h>
#endif

/* The highest instruction set that this build holds, this processor has and `cap` allows. */
static lensnet_isa lnp_detect_isa(lensnet_isa cap)
{
    if (cap <= LENSNET_ISA_REFERENCE) return LENSNET_ISA_REFERENCE;
#if LNP_X86
    __builtin_cpu_init();
#endif
#if LNP_AVX512
    if (cap >= LENSNET_ISA_AVX512 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
#if LNP_BFLOAT
        if (cap >= LENSNET_ISA_AVX512_BF16 && __builtin_cpu_supports("avx512bf16"))
            return LENSNET_ISA_AVX512_BF16;
#endif
        return LENSNET_ISA_AVX512;
    }
#endif
#if LNP_X86
    if (cap >= LENSNET_ISA_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return LENSNET_ISA_AVX2;
#endif
    return LENSNET_ISA_PORTABLE;
}

lensnet_isa lensnet_isa_in_use(const lensnet_host *host)
{
    return lnp_detect_isa(host ? host->isa_cap : LENSNET_ISA_BEST);
}

const char *lensnet_isa_text(lensnet_isa isa)
{
    switch (isa) {
    case LENSNET_ISA_REFERENCE: return "reference";
    case LENSNET_ISA_PORTABLE: return LNP_NEON ? "NEON" : "portable";
    case LENSNET_ISA_AVX2: return "AVX2+FMA";
    case LENSNET_ISA_AVX512: return "AVX-512";
    case LENSNET_ISA_AVX512_BF16: return "AVX-512 BF16";
    case LENSNET_ISA_BEST: return "best";
    }
    return "unknown";
}

/* a * b + c rounded once. Where the compiler's target has the instruction it is that; elsewhere the
 * product, exact in double, and c are added with rounding to odd (the neighbour with an odd last
 * bit when inexact), after which the rounding to float cannot go wrong: double has more than the
 * two extra bits that this needs (Boldo & Melquiond, "Emulation of FMA and correctly rounded sums:
 * proved algorithms using rounding to odd", 2008). Correct, and slow; lnp_fma_four does four
 * in less than the time of two. The C
 * library's fmaf is not called: it is slower still and, on some systems, wrong. */
#if defined(__FMA__) || defined(__aarch64__)
LNP_INLINE float lnp_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
LNP_INLINE float lnp_fma(float a, float b, float c)
{
    const double product = (double)a * (double)b, addend = (double)c;
    double sum = product + addend;
    const double part = sum - product;
    const double lost = (product - (sum - part)) + (addend - part); /* Knuth's two-sum: exact */
    if (lost > 0.0 || lost < 0.0) {
        uint64_t bits;
        memcpy(&bits, &sum, sizeof bits);
        if (!(bits & 1u)) bits = (lost > 0.0) == (sum > 0.0) ? bits + 1 : bits - 1;
        memcpy(&sum, &bits, sizeof bits);
    }
    return (float)sum;
}
#endif

/* Options that change bits and that compilers announce by no macro: -fassociative-math folds the first
 * difference, -freciprocal-math turns the division into a product, and clang with -ffp-contract=fast
 * fuses the square in spite of the pragma, where the target has the instruction. */
LNP_INLINE int lnp_arithmetic_probe(void)
{
    volatile float a = 1.0f, b = 16777216.0f, c = 1.000244140625f, d = -1.00048828125f, e = 5.0f;
    const float x = a, y = b, factor = c, minus = d, five = e;
    const float sum = x + y, square = factor * factor;
    volatile float back, rest, fifth;
    back = sum - y;
    rest = square + minus;
    fifth = five / 49.0f;
    e = 1.0f / 49.0f;
    e = five * e;
    return back == 0.0f && rest == 0.0f && fifth != e;
}

static int lnp_arithmetic_probe_plain(void) { return lnp_arithmetic_probe(); }
#if LNP_X86
LNP_TARGET_AVX2 static int lnp_arithmetic_probe_avx2(void) { return lnp_arithmetic_probe(); }
#endif

static int lnp_arithmetic_is_exact(lensnet_isa isa)
{
    const uint64_t mode = lnp_mode_enter();
    int exact = lnp_arithmetic_probe_plain();
#if LNP_X86
    if (isa >= LENSNET_ISA_AVX2 && !lnp_arithmetic_probe_avx2()) exact = 0;
#endif
    (void)isa;
    lnp_mode_leave(mode);
    return exact;
}
static lensnet_result lnp_arithmetic_check(lensnet_isa isa, lensnet_error *error)
{
    if (lnp_arithmetic_is_exact(isa)) return LENSNET_OK;
#if FLT_EVAL_METHOD + 0 != 0
    return lnp_fail(
        error, LENSNET_ERROR_NUMBER,
        "this program computes in wider numbers than float (FLT_EVAL_METHOD is %d: "
        "x87?); results would not be the same bits everywhere: compile with -msse2 -mfpmath=sse",
        (int)FLT_EVAL_METHOD);
#else
    return lnp_fail(error, LENSNET_ERROR_NUMBER,
                    "this program was compiled with a part of fast-math or with clang's "
                    "-ffp-contract=fast; results would not be the same bits everywhere: compile "
                    "without these");
#endif
}
/* =================================================================================================
 * >>vectors  The one language of the kernels: vectors of the compiler (gcc and clang), with C's own
 * operators, and the few functions for what operators cannot say. A kernel is an inline function
 * whose first parameter is the instruction set, a constant; forced into a wrapper that has the set's
 * target attribute, it becomes that set's code, and a debugger steps through it. Other compilers take
 * the `_ref` twins.
 *
 * What needs an intrinsic stands in a function of its own with the target attribute, and takes its
 * vectors by address, for how they are passed by value depends on the target. It is `static inline`
 * and not forced: so a function without the attribute may call it, and it vanishes once that one has
 * been forced into a wrapper.
 * ============================================================================================== */

#if defined(__GNUC__)
#define LNP_VECTORS 1
#else
#define LNP_VECTORS 0
#endif

/* The portable path has no instruction for the multiply-add. */
#if LNP_NEON || (LNP_X86 && defined(__FMA__))
#define LNP_FMA_EMULATED 0
#else
#define LNP_FMA_EMULATED 1
#endif

#if LNP_VECTORS

typedef float lnp_v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef float lnp_v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float lnp_v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef double lnp_d4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef uint64_t lnp_q4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef double lnp_d8 __attribute__((vector_size(64), aligned(8), may_alias));

/* One register of floats: which of the three is in use follows from the instruction set. */
typedef union lnp_vector {
    lnp_v16 v16; /* AVX-512 */
    lnp_v8 v8;   /* AVX2 */
    lnp_v4 v4;   /* NEON, SSE2, others */
} lnp_vector;

/* Before a loop whose number of turns is a constant: arrays of vectors become registers. */
#if defined(__clang__)
#define LNP_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LNP_UNROLL _Pragma("GCC unroll 32")
#endif

/* A hint: never faults, whatever the address. */
#define LNP_FETCH(line) __builtin_prefetch((const void *)(line))
/* Hides where a pointer came from: without it gcc keeps the addresses of all rows from the
 * beginning of a tile to its end, in vector registers if need be. */
#define LNP_FORGET(pointer) __asm__("" : "+r"(pointer))
/* Nothing is loaded before that stands behind: compilers load too early what then has no register. */
#define LNP_IN_ORDER() __asm__ volatile("" ::: "memory")

#if LNP_X86
LNP_TARGET_AVX2 static inline void lnp_splat_avx2(lnp_v8 *v, const float *x)
{
    *v = (lnp_v8)_mm256_set1_ps(*x);
}

LNP_TARGET_AVX2 static inline void lnp_fma_avx2(lnp_v8 *sum, const lnp_v8 *a, const lnp_v8 *b)
{
    *sum = (lnp_v8)_mm256_fmadd_ps((__m256)*a, (__m256)*b, (__m256)*sum);
}

/* The same for sums that a loop carries, in the one form that leaves each where it is: of the others gcc
 * made loops with a copy for every second multiply-add. */
LNP_TARGET_AVX2 static inline void lnp_fma_stay_avx2(lnp_v8 *sum, const lnp_v8 *a, const lnp_v8 *b)
{
    __asm__("vfmadd231ps {%2, %1, %0|%0, %1, %2}" : "+x"(*sum) : "x"(*a), "x"(*b));
}

LNP_TARGET_AVX2 static inline void lnp_root_avx2(lnp_v8 *v)
{
    *v = (lnp_v8)_mm256_sqrt_ps((__m256)*v);
}

LNP_TARGET_AVX2 static inline __m256i lnp_first_lanes_avx2(size_t count)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)lnp_min(count, 8)), lane);
}

/* The first n lanes from memory, *fill in the others. */
LNP_TARGET_AVX2 static inline void lnp_load_part_avx2(float *copy, const float *x, size_t n,
                                                      const lnp_v8 *fill)
{
    const __m256i lanes = lnp_first_lanes_avx2(n);
    const __m256 part = _mm256_maskload_ps(x, lanes);
    _mm256_storeu_ps(copy, _mm256_blendv_ps((__m256)*fill, part, _mm256_castsi256_ps(lanes)));
}

LNP_TARGET_AVX2 static inline void lnp_store_part_avx2(float *y, const float *copy, size_t n)
{
    _mm256_maskstore_ps(y, lnp_first_lanes_avx2(n), _mm256_loadu_ps(copy));
}
#endif

#if LNP_AVX512
LNP_TARGET_AVX512 static inline void lnp_splat_avx512(lnp_v16 *v, const float *x)
{
    *v = (lnp_v16)_mm512_set1_ps(*x);
}

LNP_TARGET_AVX512 static inline void lnp_fma_avx512(lnp_v16 *sum, const lnp_v16 *a,
                                                    const lnp_v16 *b)
{
    *sum = (lnp_v16)_mm512_fmadd_ps((__m512)*a, (__m512)*b, (__m512)*sum);
}

LNP_TARGET_AVX512 static inline void lnp_fma_stay_avx512(lnp_v16 *sum, const lnp_v16 *a,
                                                         const lnp_v16 *b)
{
    __asm__("vfmadd231ps {%2, %1, %0|%0, %1, %2}" : "+v"(*sum) : "v"(*a), "v"(*b));
}
#endif

#if LNP_AVX512
LNP_TARGET_AVX512 static inline void lnp_load_part_avx512(lnp_v16 *v, const float *x, size_t n)
{
    *v = (lnp_v16)_mm512_mask_loadu_ps((__m512)*v, (__mmask16)((1u << n) - 1u), x);
}

LNP_TARGET_AVX512 static inline void lnp_store_part_avx512(float *y, const lnp_v16 *v, size_t n)
{
    _mm512_mask_storeu_ps(y, (__mmask16)((1u << n) - 1u), (__m512)*v);
}

LNP_TARGET_AVX512 static inline void lnp_root_avx512(lnp_v16 *v)
{
    *v = (lnp_v16)_mm512_maskz_sqrt_ps((__mmask16)0xffff, (__m512)*v);
}
#endif

#if LNP_BFLOAT
/* Two products a lane, of pairs of bfloat16: see >>bfloat. */
LNP_TARGET_BFLOAT static inline void lnp_fma_pairs(lnp_v16 *sum, const lnp_v16 *a, const lnp_v16 *b)
{
    *sum = (lnp_v16)_mm512_dpbf16_ps((__m512)*sum, (__m512bh)*a, (__m512bh)*b);
}
#endif

#if LNP_FMA_EMULATED
typedef uint32_t lnp_u4 __attribute__((vector_size(16), aligned(4), may_alias));

/* Four at a time of what lnp_fma does for one, by integers alone, for comparisons of wide vectors are
 * what compilers take apart. `inexact` has its top bit set where something was lost; where the sum is
 * infinite or no number, what was lost is no number either and must not count. */
LNP_UNUSED static lnp_v4 lnp_fma_four_odd(lnp_v4 a, lnp_v4 b, lnp_v4 c)
{
    const lnp_d4 product = __builtin_convertvector(a, lnp_d4) * __builtin_convertvector(b, lnp_d4);
    const lnp_d4 addend = __builtin_convertvector(c, lnp_d4);
    const lnp_d4 sum = product + addend, part = sum - product;
    const lnp_d4 lost = (product - (sum - part)) + (addend - part);
    const lnp_q4 bits = (lnp_q4)sum, magnitude = bits & 0x7fffffffffffffffu;
    const lnp_q4 no_number = magnitude + 0x0010000000000000u;
    const lnp_q4 inexact = ((lnp_q4)lost | (lnp_q4)(0.0 - lost)) & ~no_number;
    const lnp_q4 too_far = ((lnp_q4)lost ^ bits) & inexact; /* the sum was rounded away from zero */
    return __builtin_convertvector((lnp_d4)((bits - (too_far >> 63)) | inexact >> 63), lnp_v4);
}

/* Is a top bit set in any lane? */
LNP_INLINE int lnp_any_top(lnp_q4 a, lnp_u4 b)
{
#if LNP_X86
    union {
        lnp_q4 all;
        __m128d half[2];
    } lanes;
    lanes.all = a;
    return _mm_movemask_pd(_mm_or_pd(lanes.half[0], lanes.half[1])) | _mm_movemask_ps((__m128)b);
#else
    return (int)((a[0] | a[1] | a[2] | a[3]) >> 63) | (int)((b[0] | b[1] | b[2] | b[3]) >> 31);
#endif
}

/* A sum rounded to double and then to float is right unless the double lies in the middle between two
 * floats (its last 29 bits are 1 0...0), or the float is so small that it has fewer bits. That is rare:
 * only then is it done again the long way. */
LNP_INLINE lnp_v4 lnp_fma_four(lnp_v4 a, lnp_v4 b, lnp_v4 c)
{
    const lnp_d4 product = __builtin_convertvector(a, lnp_d4) * __builtin_convertvector(b, lnp_d4);
    const lnp_d4 sum = product + __builtin_convertvector(c, lnp_d4);
    const lnp_v4 rounded = __builtin_convertvector(sum, lnp_v4);
    const lnp_q4 middle = (((lnp_q4)sum & 0x1fffffffu) ^ 0x10000000u) - 1u;
    const lnp_u4 magnitude = (lnp_u4)rounded & 0x7fffffffu;
    const lnp_u4 small = (magnitude - 0x00800001u) & ~(magnitude - 1u);
    if (__builtin_expect(lnp_any_top(middle, small), 0)) return lnp_fma_four_odd(a, b, c);
    return rounded;
}
#else
LNP_INLINE lnp_v4 lnp_fma_four(lnp_v4 a, lnp_v4 b, lnp_v4 c)
{
#if LNP_NEON
    return (lnp_v4)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return (lnp_v4)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#endif
}
#endif

/* Lanes of a register. */
LNP_INLINE size_t lnp_lanes_of(lensnet_isa isa)
{
    return isa >= LENSNET_ISA_AVX512 ? 16 : isa == LENSNET_ISA_AVX2 ? 8 : 4;
}

LNP_INLINE lnp_vector lnp_load(lensnet_isa isa, const float *x)
{
    lnp_vector v;
    if (isa >= LENSNET_ISA_AVX512)
        v.v16 = *(const lnp_v16 *)x;
    else if (isa == LENSNET_ISA_AVX2)
        v.v8 = *(const lnp_v8 *)x;
    else
        v.v4 = *(const lnp_v4 *)x;
    return v;
}

LNP_INLINE void lnp_store(lensnet_isa isa, float *y, lnp_vector v)
{
    if (isa >= LENSNET_ISA_AVX512)
        *(lnp_v16 *)y = v.v16;
    else if (isa == LENSNET_ISA_AVX2)
        *(lnp_v8 *)y = v.v8;
    else
        *(lnp_v4 *)y = v.v4;
}

/* The number at x in every lane. */
LNP_INLINE lnp_vector lnp_splat(lensnet_isa isa, const float *x)
{
    const lnp_v4 four = {*x, *x, *x, *x};
    lnp_vector v;
    v.v4 = four;
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) lnp_splat_avx512(&v.v16, x);
#endif
#if LNP_X86
    if (isa == LENSNET_ISA_AVX2) lnp_splat_avx2(&v.v8, x);
#endif
    (void)isa;
    return v;
}

LNP_INLINE lnp_vector lnp_square_root(lensnet_isa isa, lnp_vector v)
{
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) lnp_root_avx512(&v.v16);
#endif
#if LNP_X86
    if (isa == LENSNET_ISA_AVX2) lnp_root_avx2(&v.v8);
    if (isa < LENSNET_ISA_AVX2) v.v4 = (lnp_v4)_mm_sqrt_ps((__m128)v.v4);
#elif LNP_NEON
    v.v4 = (lnp_v4)vsqrtq_f32((float32x4_t)v.v4);
#else
    int l;
    for (l = 0; l < 4; l++) v.v4[l] = sqrtf(v.v4[l]);
#endif
    (void)isa;
    return v;
}

/* *sum += a * b, rounded once: the chain of the law. */
LNP_INLINE void lnp_multiply_add(lensnet_isa isa, lnp_vector *sum, lnp_vector a, lnp_vector b)
{
#if LNP_BFLOAT
    if (isa == LENSNET_ISA_AVX512_BF16) lnp_fma_pairs(&sum->v16, &a.v16, &b.v16);
#endif
#if LNP_AVX512
    if (isa == LENSNET_ISA_AVX512) lnp_fma_avx512(&sum->v16, &a.v16, &b.v16);
#endif
#if LNP_X86
    if (isa == LENSNET_ISA_AVX2) lnp_fma_avx2(&sum->v8, &a.v8, &b.v8);
#endif
    if (isa < LENSNET_ISA_AVX2) sum->v4 = lnp_fma_four(a.v4, b.v4, sum->v4);
}

/* The same for a tile, whose sums stay in their registers. */
LNP_INLINE void lnp_multiply_add_stay(lensnet_isa isa, lnp_vector *sum, lnp_vector a, lnp_vector b)
{
#if LNP_AVX512
    if (isa == LENSNET_ISA_AVX512) lnp_fma_stay_avx512(&sum->v16, &a.v16, &b.v16);
#endif
#if LNP_X86
    if (isa == LENSNET_ISA_AVX2) lnp_fma_stay_avx2(&sum->v8, &a.v8, &b.v8);
#endif
    if (isa < LENSNET_ISA_AVX2 || isa > LENSNET_ISA_AVX512) lnp_multiply_add(isa, sum, a, b);
}

/* The vector is needed until here: its register is no other's place before. */
LNP_INLINE void lnp_keep(lensnet_isa isa, lnp_vector v)
{
#if LNP_AVX512 && defined(__OPTIMIZE__) /* else it is a function, without those registers */
    if (isa == LENSNET_ISA_AVX512) __asm__ volatile("" : : "v"(v.v16));
#endif
#if LNP_X86 && defined(__OPTIMIZE__)
    if (isa == LENSNET_ISA_AVX2) __asm__ volatile("" : : "x"(v.v8));
#endif
    (void)isa;
    (void)v;
}

/* -- 16 lanes, which the compiler cuts into the registers there are ---------------------------- */

typedef uint32_t lnp_u16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t lnp_i16 __attribute__((vector_size(64), aligned(4), may_alias));

/* gcc divides arithmetic on 16 lanes among the registers that a target has, but moves vectors as a
 * whole through the stack when they are stored or carried round a loop. So these are done in parts. */
#if defined(__clang__) || __GNUC__ >= 12
#define LNP_LOW8(v)  __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7)
#define LNP_HIGH8(v) __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)
#define LNP_LOW4(v)  __builtin_shufflevector(v, v, 0, 1, 2, 3)
#define LNP_HIGH4(v) __builtin_shufflevector(v, v, 4, 5, 6, 7)
#else
#define LNP_LOW8(v)  (((const lnp_v8 *)&(v))[0])
#define LNP_HIGH8(v) (((const lnp_v8 *)&(v))[1])
#define LNP_LOW4(v)  (((const lnp_v4 *)&(v))[0])
#define LNP_HIGH4(v) (((const lnp_v4 *)&(v))[1])
#endif

LNP_INLINE lnp_v16 lnp_load_16(const float *x) { return *(const lnp_v16 *)x; }

LNP_INLINE void lnp_store_16(lensnet_isa isa, float *y, lnp_v16 v)
{
    const lnp_v8 low = LNP_LOW8(v), high = LNP_HIGH8(v);
    if (isa >= LENSNET_ISA_AVX512) {
        *(lnp_v16 *)y = v;
    } else if (isa == LENSNET_ISA_AVX2) {
        *(lnp_v8 *)y = low;
        *(lnp_v8 *)(y + 8) = high;
    } else {
        *(lnp_v4 *)y = LNP_LOW4(low);
        *(lnp_v4 *)(y + 4) = LNP_HIGH4(low);
        *(lnp_v4 *)(y + 8) = LNP_LOW4(high);
        *(lnp_v4 *)(y + 12) = LNP_HIGH4(high);
    }
}

/* A number that is no constant in all lanes; gcc takes an operator with one apart. */
LNP_INLINE lnp_v16 lnp_splat_16(lensnet_isa isa, float s)
{
    const lnp_vector part = lnp_splat(isa, &s);
    float copy[16];
    size_t l;
    if (isa >= LENSNET_ISA_AVX512) return part.v16;
    LNP_UNROLL
    for (l = 0; l < 16; l += lnp_lanes_of(isa)) lnp_store(isa, copy + l, part);
    return lnp_load_16(copy);
}

/* The first n < 16 lanes from memory, `fill` in the others. */
LNP_INLINE lnp_v16 lnp_load_part(lensnet_isa isa, const float *x, size_t n, float fill)
{
    const size_t lanes = lnp_lanes_of(isa);
    const lnp_vector rest = lnp_splat(isa, &fill);
    float copy[16];
    size_t l;
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) {
        lnp_v16 v = rest.v16;
        lnp_load_part_avx512(&v, x, n);
        return v;
    }
#endif
#if LNP_X86
    if (isa == LENSNET_ISA_AVX2) {
        lnp_load_part_avx2(copy, x, n, &rest.v8);
        lnp_load_part_avx2(copy + 8, x + 8, n > 8 ? n - 8 : 0, &rest.v8);
        return lnp_load_16(copy);
    }
#endif
    LNP_UNROLL
    for (l = 0; l < 16; l += lanes) {
        if (l + lanes <= n)
            lnp_store(isa, copy + l, lnp_load(isa, x + l));
        else
            lnp_store(isa, copy + l, rest);
    }
    for (l = n - n % lanes; l < n; l++) copy[l] = x[l];
    return lnp_load_16(copy);
}

LNP_INLINE void lnp_store_part(lensnet_isa isa, float *y, lnp_v16 v, size_t n)
{
    const size_t lanes = lnp_lanes_of(isa);
    float copy[16];
    size_t l;
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) {
        lnp_store_part_avx512(y, &v, n);
        return;
    }
#endif
    lnp_store_16(isa, copy, v);
#if LNP_X86
    if (isa == LENSNET_ISA_AVX2) { /* widths are multiples of 8, and masks slow for stores */
        if (n >= 8)
            lnp_store(isa, y, lnp_load(isa, copy));
        else
            lnp_store_part_avx2(y, copy, n);
        if (n > 8) lnp_store_part_avx2(y + 8, copy + 8, n - 8);
        return;
    }
#endif
    for (l = 0; l + lanes <= n; l += lanes) lnp_store(isa, y + l, lnp_load(isa, copy + l));
    for (; l < n; l++) y[l] = copy[l];
}

/* Half a vector at the end of a row is what networks have, whose widths are multiples of 8: without
 * masks it is worth a text of its own, with a constant. */
LNP_INLINE int lnp_is_half(lensnet_isa isa, size_t n) { return isa < LENSNET_ISA_AVX512 && n == 8; }

/* n = 16 or fewer */
LNP_INLINE lnp_v16 lnp_load_n(lensnet_isa isa, const float *x, size_t n, float fill)
{
    return n == 16 ? lnp_load_16(x) : lnp_load_part(isa, x, n, fill);
}

LNP_INLINE void lnp_store_n(lensnet_isa isa, float *y, lnp_v16 v, size_t n)
{
    if (n == 16)
        lnp_store_16(isa, y, v);
    else
        lnp_store_part(isa, y, v, n);
}

/* All bits of a lane set where its top bit is: a comparison that no compiler takes apart. */
LNP_INLINE lnp_u16 lnp_top(lnp_u16 a) { return (lnp_u16)((lnp_i16)a >> 31); }

/* A sum in 16 lanes that is carried round a loop: one of the three is in use. */
typedef struct lnp_lane_sum {
    lnp_v16 whole;
    lnp_v8 half[2];
    lnp_v4 quarter[4];
} lnp_lane_sum;

LNP_INLINE lnp_lane_sum lnp_lane_sum_zero(void)
{
    const lnp_lane_sum sum = {{0.0f}, {{0.0f}, {0.0f}}, {{0.0f}, {0.0f}, {0.0f}, {0.0f}}};
    return sum;
}

LNP_INLINE void lnp_lane_sum_add(lensnet_isa isa, lnp_lane_sum *sum, lnp_v16 v)
{
    const lnp_v8 low = LNP_LOW8(v), high = LNP_HIGH8(v);
    if (isa >= LENSNET_ISA_AVX512) {
        sum->whole += v;
    } else if (isa == LENSNET_ISA_AVX2) {
        sum->half[0] += low;
        sum->half[1] += high;
    } else {
        sum->quarter[0] += LNP_LOW4(low);
        sum->quarter[1] += LNP_HIGH4(low);
        sum->quarter[2] += LNP_LOW4(high);
        sum->quarter[3] += LNP_HIGH4(high);
    }
}

/* The tree of lnp_lanes_sum. */
LNP_INLINE float lnp_lane_sum_end(lensnet_isa isa, const lnp_lane_sum *sum)
{
    lnp_v4 four;
    if (isa < LENSNET_ISA_AVX2) {
        four = (sum->quarter[0] + sum->quarter[2]) + (sum->quarter[1] + sum->quarter[3]);
    } else {
        lnp_v8 eight = sum->half[0] + sum->half[1];
        if (isa >= LENSNET_ISA_AVX512) eight = LNP_LOW8(sum->whole) + LNP_HIGH8(sum->whole);
        four = LNP_LOW4(eight) + LNP_HIGH4(eight);
    }
    return (four[0] + four[2]) + (four[1] + four[3]);
}

#endif
/* =================================================================================================
 * >>rows  Elementwise and row kernels: GELU, LayerNorm, GRN, sums, pooling, loss, optimiser.
 * Each is written once against a vector of 16 lanes (one AVX-512 register, two of AVX2, four of SSE
 * or NEON) and compiled per instruction set; a plain loop, `_ref`, stands beside it. Multiply and
 * add are separate everywhere, so every instruction set gives the same bits.
 *
 * Sums, the law: inside a row, lane l adds elements l, l+16, ... in order, then a tree (8,4,2,1).
 * Over the pixels of a sample: chunks of LNP_CHUNK_ROWS, sequential in float, begun at zero. The
 * chunks' sums are added in order: in double where they make a number of the sample (GRN, pooling);
 * in float to what stands in the buffer, sample after sample, where they make the gradient of a
 * parameter (but for a depthwise filter and its bias, see >>depthwise). So rows can be dealt to
 * threads by the chunk.
 * Strides count floats. n, rows, columns may be 0. Columns may start anywhere in a row.
 * ============================================================================================== */

#define LNP_CHUNK_ROWS   ((size_t)56) /* pixels per chunk, counted from the sample's first pixel */
#define LNP_CHUNK_VALUES ((size_t)4096) /* elements per chunk of lnp_sum_of_squares */

/* What AdamW needs for one step: products of rates in double, rounded once. */
typedef struct lnp_adamw_constants {
    float decay; /* 1 - lr * weight_decay */
    float beta1, rest1;
    float beta2, rest2; /* rest = 1 - beta */
    float step;         /* lr / (1 - beta1^t) */
    float root;         /* sqrt(1 - beta2^t) */
    float epsilon;
} lnp_adamw_constants;

/* Kernels of a set: KERNEL(name, parameters, arguments), one list for each kind. All return nothing. */

/* Of n values; y (dx, m, v, e, p) may be any of the inputs.
 * gelu             y = x * Phi(x)
 * gelu_backward    dx = dy * (Phi(x) + x * phi(x))
 * relu             y = max(x, 0); NaN stays NaN
 * relu_backward    dx = x <= 0 ? 0 : dy
 * add              y = a + b
 * add_scaled       y = x + s * z
 * scale            y = s * x
 * average_towards  e += s * (w - e): moving average with s = 1 - decay */
#define LNP_VALUE_KERNELS(KERNEL)                                                                  \
    KERNEL(gelu, (float *y, const float *x, size_t n), (y, x, n))                                  \
    KERNEL(gelu_backward, (float *dx, const float *dy, const float *x, size_t n), (dx, dy, x, n))  \
    KERNEL(relu, (float *y, const float *x, size_t n), (y, x, n))                                  \
    KERNEL(relu_backward, (float *dx, const float *dy, const float *x, size_t n), (dx, dy, x, n))  \
    KERNEL(add, (float *y, const float *a, const float *b, size_t n), (y, a, b, n))                \
    KERNEL(add_scaled, (float *y, const float *x, const float *z, float s, size_t n),              \
           (y, x, z, s, n))                                                                        \
    KERNEL(scale, (float *y, const float *x, float s, size_t n), (y, x, s, n))                     \
    KERNEL(average_towards, (float *e, const float *w, float s, size_t n), (e, w, s, n))

/* Of the optimiser, over n values.
 * square_roots   y = sqrt(x); y may be x
 * chunk_squares  *sum = the sum of x^2 in double, in 16 lanes, for one chunk of lnp_sum_of_squares
 * adamw_moments, adamw_apply  the two halves of lnp_adamw_update, around square_roots(root, v) */
#define LNP_STEP_KERNELS(KERNEL)                                                                   \
    KERNEL(square_roots, (float *y, const float *x, size_t n), (y, x, n))                          \
    KERNEL(chunk_squares, (double *sum, const float *x, size_t n), (sum, x, n))                    \
    KERNEL(adamw_moments,                                                                          \
           (float *m, float *v, const float *g, size_t n, const lnp_adamw_constants *k),           \
           (m, v, g, n, k))                                                                        \
    KERNEL(adamw_apply,                                                                            \
           (float *p, const float *m, const float *root, size_t n, const lnp_adamw_constants *k),  \
           (p, m, root, n, k))

/* Sums down the columns, row by row; a may be h.
 * column_sum       sums[c] += x
 * column_products  sums[c] += a * b
 * gelu_squares     a = gelu(h), sums[c] += a * a */
#define LNP_COLUMN_KERNELS(KERNEL)                                                                 \
    KERNEL(column_sum, (float *sums, const float *x, size_t stride, size_t rows, size_t columns),  \
           (sums, x, stride, rows, columns))                                                       \
    KERNEL(                                                                                        \
        column_products,                                                                           \
        (float *sums, const float *a, const float *b, size_t stride, size_t rows, size_t columns), \
        (sums, a, b, stride, rows, columns))                                                       \
    KERNEL(gelu_squares,                                                                           \
           (float *a, size_t a_stride, const float *h, size_t h_stride, float *sums, size_t rows,  \
            size_t columns),                                                                       \
           (a, a_stride, h, h_stride, sums, rows, columns))

/* LayerNorm, c >= 1; x, y, w, b at the first column wanted; y may be x.
 * row_statistics       mean, then rstd = 1 / sqrt(mean((x - mean)^2) + eps): two passes
 * normalize_rows       y = (x - mean) * rstd * w + b
 * layer_norm_backward  dx (also dy, x or NULL), dw[c] += dy (x - mean) rstd, db[c] += dy */
#define LNP_NORM_KERNELS(KERNEL)                                                                   \
    KERNEL(row_statistics,                                                                         \
           (float *mean, float *rstd, const float *x, size_t stride, size_t rows, size_t c,        \
            float eps),                                                                            \
           (mean, rstd, x, stride, rows, c, eps))                                                  \
    KERNEL(normalize_rows,                                                                         \
           (float *y, size_t y_stride, const float *x, size_t x_stride, const float *mean,         \
            const float *rstd, const float *w, const float *b, size_t rows, size_t columns),       \
           (y, y_stride, x, x_stride, mean, rstd, w, b, rows, columns))                            \
    LNP_NORM_MORE_KERNELS(KERNEL)
#define LNP_NORM_MORE_KERNELS(KERNEL)                                                              \
    KERNEL(layer_norm_backward,                                                                    \
           (float *dx, float *dw, float *db, const float *dy, const float *x, const float *mean,   \
            const float *rstd, const float *w, size_t rows, size_t c),                             \
           (dx, dw, db, dy, x, mean, rstd, w, rows, c))

/* GRN and the GELU before it.
 * scale_shift_rows     y = x * factor[c] + shift[c]; y may be x
 * grn_backward_first   a = gelu(h), slope = gelu'(h), products[c] += da a, dbeta[c] += da; a, slope may be h
 * grn_backward_second  dh = (da * factor[c] + coef[c] * a) * slope, db[c] += dh; dh may be da
 * grn_backward_rows    dx = dy * factor[c] + coef[c] * x (plain GRN); dx may be dy or x */
#define LNP_GRN_KERNELS(KERNEL)                                                                    \
    KERNEL(scale_shift_rows,                                                                       \
           (float *y, size_t y_stride, const float *x, size_t x_stride, const float *factor,       \
            const float *shift, size_t rows, size_t columns),                                      \
           (y, y_stride, x, x_stride, factor, shift, rows, columns))                               \
    KERNEL(grn_backward_first,                                                                     \
           (float *a, float *slope, float *products, float *dbeta, const float *h,                 \
            const float *da, size_t stride, size_t rows, size_t columns),                          \
           (a, slope, products, dbeta, h, da, stride, rows, columns))                              \
    LNP_GRN_MORE_KERNELS(KERNEL)
#define LNP_GRN_MORE_KERNELS(KERNEL)                                                               \
    KERNEL(grn_backward_second,                                                                    \
           (float *dh, float *db, const float *da, const float *a, const float *slope,             \
            const float *factor, const float *coef, size_t stride, size_t rows, size_t columns),   \
           (dh, db, da, a, slope, factor, coef, stride, rows, columns))                            \
    KERNEL(grn_backward_rows,                                                                      \
           (float *dx, const float *dy, const float *x, const float *factor, const float *coef,    \
            size_t stride, size_t rows, size_t columns),                                           \
           (dx, dy, x, factor, coef, stride, rows, columns))

#define LNP_ROW_KERNELS(KERNEL)                                                                    \
    LNP_VALUE_KERNELS(KERNEL)                                                                      \
    LNP_STEP_KERNELS(KERNEL)                                                                       \
    LNP_COLUMN_KERNELS(KERNEL)                                                                     \
    LNP_NORM_KERNELS(KERNEL)                                                                       \
    LNP_GRN_KERNELS(KERNEL)

#define LNP_ROW_FIELD(name, parameters, arguments) void(*name) parameters;
typedef struct lnp_row_kernels {
    LNP_ROW_KERNELS(LNP_ROW_FIELD)
} lnp_row_kernels;
#undef LNP_ROW_FIELD

/* -- the plain twins --------------------------------------------------------------------------- */

/* The tree that ends every lane reduction. */
static float lnp_lanes_sum(const float *lanes)
{
    float sum[8];
    int l;
    for (l = 0; l < 8; l++) sum[l] = lanes[l] + lanes[l + 8];
    for (l = 0; l < 4; l++) sum[l] = sum[l] + sum[l + 4];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* With t = |x|, e = exp(-t^2/2) and Q(t) = exp(t^2/2) Phi(-t), smooth and falling from 1/2
 * like 1/t: gelu(x) = max(x, 0) - t Q e and gelu'(x) = [x >= 0] + sign(x) e (t / sqrt(2 pi) - Q).
 * Nothing cancels, so the negative tail keeps its relative accuracy. Q is a rational function 4/5
 * (minimax in relative error on [0, 13.2], 1.0e-8 with these floats as coefficients). e = 2^w,
 * w = -t^2 / (2 ln 2), is a power of two by integer arithmetic times a polynomial of degree 6
 * (2.0e-9 on [-1/2, 1/2]). t stops at LNP_GAUSS_END, where the power of two has become 0: gelu ends
 * (as +0) before any intermediate value is subnormal. Polynomials are evaluated as trees, because
 * latency is what limits, but their last two steps singly, because these decide the rounding.
 * Bounds over all floats, checked by tests/test_rows.c, absolute: e and Phi(-t) = Q e 1e-7, slope
 * 1.5e-7, gelu 1e-7 or 2 ulp, the larger. The tails' relative errors grow to 8e-6 at x = -13.
 * Cycles per value on Zen 5 (gcc 12): gelu 1.1, with slope 1.3 on AVX-512; 2.1 and 2.6 on AVX2. */
#define LNP_GAUSS_END    0x41529ba6u   /* 13.163 */
#define LNP_GAUSS_RATE   -0.721347511f /* -1 / (2 ln 2) */
#define LNP_GAUSS_MAGIC  12583037.0f /* 1.5 * 2^23 + 125: adding it to w rounds to an integer ... */
#define LNP_INV_SQRT_2PI 0.398942280f

/* 4 * 2^f; ... whose low bits are the exponent of 2^(round(w) - 2), which is 0 at the end */
#define LNP_GAUSS_E1 2.77258873f
#define LNP_GAUSS_E2 0.960905910f
#define LNP_GAUSS_E3 0.222013295f
#define LNP_GAUSS_E4 0.0384737514f
#define LNP_GAUSS_E5 0.00535956025f
#define LNP_GAUSS_E6 0.000614133605f

#define LNP_GAUSS_N1 0.435686022f
#define LNP_GAUSS_N2 0.181306645f
#define LNP_GAUSS_N3 0.0399841219f
#define LNP_GAUSS_N4 0.00402018242f
#define LNP_GAUSS_D1 1.66925693f
#define LNP_GAUSS_D2 1.19448352f
#define LNP_GAUSS_D3 0.464379996f
#define LNP_GAUSS_D4 0.100232713f
#define LNP_GAUSS_D5 0.0100769596f

/* The same for one value, for the `_ref` loops: *slope and gelu(x). */
static float lnp_gelu_ref_value(float x, float *slope)
{
    uint32_t bits, u;
    float t, t2, w, shifted, f, f2, p, q, power, e, tail, side;
    memcpy(&bits, &x, sizeof bits);
    u = bits & 0x7fffffffu;
    if (u >= LNP_GAUSS_END && u <= 0x7f800000u) u = LNP_GAUSS_END;
    memcpy(&t, &u, sizeof t);
    t2 = t * t;
    w = t2 * LNP_GAUSS_RATE;
    shifted = w + LNP_GAUSS_MAGIC;
    f = w - (shifted - LNP_GAUSS_MAGIC);
    memcpy(&u, &shifted, sizeof u);
    u <<= 23;
    memcpy(&power, &u, sizeof power);
    f2 = f * f;
    p = LNP_GAUSS_E6 * f2 + (LNP_GAUSS_E5 * f + LNP_GAUSS_E4);
    p = p * f2 + (LNP_GAUSS_E3 * f + LNP_GAUSS_E2);
    e = ((p * f + LNP_GAUSS_E1) * f + 4.0f) * power;
    p = LNP_GAUSS_N4 * t2 + (LNP_GAUSS_N3 * t + LNP_GAUSS_N2);
    p = (p * t + LNP_GAUSS_N1) * t + 0.5f;
    q = (LNP_GAUSS_D5 * t + LNP_GAUSS_D4) * t2 + (LNP_GAUSS_D3 * t + LNP_GAUSS_D2);
    q = (q * t + LNP_GAUSS_D1) * t + 1.0f;
    tail = p / q;
    side = e * (t * LNP_INV_SQRT_2PI - tail);
    *slope = bits >> 31 ? 0.0f - side : 1.0f + side;
    return (bits >> 31 ? 0.0f : x) - t * tail * e;
}

static void lnp_gelu_ref(float *y, const float *x, size_t n)
{
    size_t i;
    float slope;
    for (i = 0; i < n; i++) y[i] = lnp_gelu_ref_value(x[i], &slope);
}

static void lnp_gelu_backward_ref(float *dx, const float *dy, const float *x, size_t n)
{
    size_t i;
    float slope;
    for (i = 0; i < n; i++) {
        lnp_gelu_ref_value(x[i], &slope);
        dx[i] = dy[i] * slope;
    }
}

static void lnp_gelu_squares_ref(float *a, size_t a_stride, const float *h, size_t h_stride,
                                 float *sums, size_t rows, size_t columns)
{
    size_t r, c;
    float slope;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++) {
            const float v = lnp_gelu_ref_value(h[r * h_stride + c], &slope);
            a[r * a_stride + c] = v;
            sums[c] += v * v;
        }
}

static void lnp_column_sum_ref(float *sums, const float *x, size_t stride, size_t rows,
                               size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++) sums[c] += x[r * stride + c];
}

static void lnp_column_products_ref(float *sums, const float *a, const float *b, size_t stride,
                                    size_t rows, size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++) sums[c] += a[r * stride + c] * b[r * stride + c];
}

static void lnp_row_statistics_ref(float *mean, float *rstd, const float *x, size_t stride,
                                   size_t rows, size_t c, float eps)
{
    size_t r, i;
    for (r = 0; r < rows; r++, x += stride) {
        float sum[16] = {0.0f}, squares[16] = {0.0f};
        for (i = 0; i < c; i++) sum[i % 16] += x[i];
        mean[r] = lnp_lanes_sum(sum) / (float)c;
        for (i = 0; i < c; i++) squares[i % 16] += (x[i] - mean[r]) * (x[i] - mean[r]);
        rstd[r] = 1.0f / sqrtf(lnp_lanes_sum(squares) / (float)c + eps);
    }
}

static void lnp_normalize_rows_ref(float *y, size_t y_stride, const float *x, size_t x_stride,
                                   const float *mean, const float *rstd, const float *w,
                                   const float *b, size_t rows, size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++)
            y[r * y_stride + c] = (x[r * x_stride + c] - mean[r]) * rstd[r] * w[c] + b[c];
}

static void lnp_layer_norm_backward_ref(float *dx, float *dw, float *db, const float *dy,
                                        const float *x, const float *mean, const float *rstd,
                                        const float *w, size_t rows, size_t c)
{
    size_t r, i;
    for (r = 0; r < rows; r++, dy += c, x += c) {
        float g[16] = {0.0f}, gx[16] = {0.0f}, mean_g, mean_gx;
        for (i = 0; i < c; i++) {
            const float xh = (x[i] - mean[r]) * rstd[r];
            g[i % 16] += dy[i] * w[i];
            gx[i % 16] += dy[i] * w[i] * xh;
            dw[i] += dy[i] * xh;
            db[i] += dy[i];
        }
        mean_g = lnp_lanes_sum(g) / (float)c;
        mean_gx = lnp_lanes_sum(gx) / (float)c;
        for (i = 0; dx && i < c; i++)
            dx[i] = (dy[i] * w[i] - mean_g - (x[i] - mean[r]) * rstd[r] * mean_gx) * rstd[r];
        if (dx) dx += c;
    }
}

static void lnp_scale_shift_rows_ref(float *y, size_t y_stride, const float *x, size_t x_stride,
                                     const float *factor, const float *shift, size_t rows,
                                     size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++)
            y[r * y_stride + c] = x[r * x_stride + c] * factor[c] + shift[c];
}

static void lnp_grn_backward_first_ref(float *a, float *slope, float *products, float *dbeta,
                                       const float *h, const float *da, size_t stride, size_t rows,
                                       size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++) {
            const size_t at = r * stride + c;
            float s;
            const float v = lnp_gelu_ref_value(h[at], &s);
            a[at] = v;
            slope[at] = s;
            products[c] += da[at] * v;
            dbeta[c] += da[at];
        }
}

static void lnp_grn_backward_second_ref(float *dh, float *db, const float *da, const float *a,
                                        const float *slope, const float *factor, const float *coef,
                                        size_t stride, size_t rows, size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++) {
            const size_t at = r * stride + c;
            const float g = (da[at] * factor[c] + coef[c] * a[at]) * slope[at];
            dh[at] = g;
            db[c] += g;
        }
}

static void lnp_grn_backward_rows_ref(float *dx, const float *dy, const float *x,
                                      const float *factor, const float *coef, size_t stride,
                                      size_t rows, size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++) {
            const size_t at = r * stride + c;
            dx[at] = dy[at] * factor[c] + coef[c] * x[at];
        }
}

static void lnp_add_ref(float *y, const float *a, const float *b, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static void lnp_add_scaled_ref(float *y, const float *x, const float *z, float s, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = z[i] * s + x[i];
}

static void lnp_scale_ref(float *y, const float *x, float s, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = x[i] * s;
}

static void lnp_relu_ref(float *y, const float *x, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = x[i] <= 0.0f ? 0.0f : x[i];
}

static void lnp_relu_backward_ref(float *dx, const float *dy, const float *x, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) dx[i] = x[i] <= 0.0f ? 0.0f : dy[i];
}

static void lnp_average_towards_ref(float *e, const float *w, float s, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) e[i] = (w[i] - e[i]) * s + e[i];
}

static void lnp_square_roots_ref(float *y, const float *x, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = sqrtf(x[i]);
}

static void lnp_chunk_squares_ref(double *sum, const float *x, size_t n)
{
    double lanes[16] = {0.0};
    size_t i;
    for (i = 0; i < n; i++) lanes[i % 16] += (double)x[i] * (double)x[i];
    for (i = 0; i < 8; i++) lanes[i] += lanes[i + 8];
    for (i = 0; i < 4; i++) lanes[i] += lanes[i + 4];
    *sum = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

static void lnp_adamw_moments_ref(float *m, float *v, const float *g, size_t n,
                                  const lnp_adamw_constants *k)
{
    size_t i;
    for (i = 0; i < n; i++) {
        m[i] = m[i] * k->beta1 + k->rest1 * g[i];
        v[i] = v[i] * k->beta2 + k->rest2 * g[i] * g[i];
    }
}

static void lnp_adamw_apply_ref(float *p, const float *m, const float *root, size_t n,
                                const lnp_adamw_constants *k)
{
    size_t i;
    for (i = 0; i < n; i++)
        p[i] = p[i] * k->decay - k->step * (m[i] / (root[i] / k->root + k->epsilon));
}

#if LNP_VECTORS

/* -- walking over rows ------------------------------------------------------------------------- */

/* What a kernel reads or writes: a matrix, `stride` floats from row to row, or (stride 0) one row that
 * goes with all. */
typedef struct lnp_operand {
    float *at;
    size_t stride;
} lnp_operand;

#define LNP_OPERANDS 7 /* of a kernel, at most */

/* A kernel at work: on four rows of 16 columns, because one vector alone waits for its own results most
 * of the time; or, at an edge, on one row of n <= 16. `rows` is a constant. */
typedef void lnp_row_step(lensnet_isa isa, const lnp_operand *operand, int rows, size_t n,
                          const void *context);

LNP_INLINE lnp_operand lnp_rows_at(const float *at, size_t stride)
{
    lnp_operand operand;
    operand.at = (float *)at;
    operand.stride = stride;
    return operand;
}

/* The step at row r and column i. */
LNP_INLINE void lnp_step_at(lensnet_isa isa, lnp_row_step *step, const lnp_operand *operand,
                            int count, size_t r, size_t i, int rows, size_t n)
{
    lnp_operand here[LNP_OPERANDS];
    int k;
    LNP_UNROLL
    for (k = 0; k < count; k++)
        here[k] = lnp_rows_at(operand[k].at + r * operand[k].stride + i, operand[k].stride);
    step(isa, here, rows, n, NULL);
}

LNP_INLINE void lnp_over_rows(lensnet_isa isa, lnp_row_step *step, const lnp_operand *operand,
                              int count, size_t rows, size_t columns)
{
    size_t r, i, edge;
    for (r = 0; r < rows; r += 4) {
        for (i = 0; r + 4 <= rows && i + 16 <= columns; i += 16)
            lnp_step_at(isa, step, operand, count, r, i, 4, 16);
        for (; i < columns; i += 16)
            for (edge = r; edge < lnp_min(r + 4, rows); edge++)
                lnp_step_at(isa, step, operand, count, edge, i, 1, lnp_min(16, columns - i));
    }
}

/* The same along n values: 64 of them as four rows, what is left as rows of 16. */
LNP_INLINE void lnp_over_values(lensnet_isa isa, lnp_row_step *step, const lnp_operand *operand,
                                int count, size_t n, const void *context)
{
    lnp_operand here[LNP_OPERANDS];
    size_t i;
    int k;
    for (i = 0; i + 64 <= n; i += 64) {
        LNP_UNROLL
        for (k = 0; k < count; k++) here[k] = lnp_rows_at(operand[k].at + i, 16);
        step(isa, here, 4, 16, context);
    }
    for (; i < n; i += 16) {
        LNP_UNROLL
        for (k = 0; k < count; k++) here[k] = lnp_rows_at(operand[k].at + i, 16);
        step(isa, here, 1, lnp_min(16, n - i), context);
    }
}

LNP_INLINE void lnp_load_rows(lensnet_isa isa, lnp_v16 *v, lnp_operand x, int rows, size_t n)
{
    int r;
    LNP_UNROLL
    for (r = 0; r < rows; r++) v[r] = lnp_load_n(isa, x.at + (size_t)r * x.stride, n, 0.0f);
}

LNP_INLINE void lnp_store_rows(lensnet_isa isa, lnp_operand y, const lnp_v16 *v, int rows, size_t n)
{
    int r;
    LNP_UNROLL
    for (r = 0; r < rows; r++) lnp_store_n(isa, y.at + (size_t)r * y.stride, v[r], n);
}

/* sums += one row, or four in order */
LNP_INLINE void lnp_add_rows(lensnet_isa isa, float *sums, const lnp_v16 *v, int rows, size_t n)
{
    const lnp_v16 sum = lnp_load_n(isa, sums, n, 0.0f) + v[0];
    if (rows == 4)
        lnp_store_n(isa, sums, sum + v[1] + v[2] + v[3], n);
    else
        lnp_store_n(isa, sums, sum, n);
}

/* -- GELU ------------------------------------------------------------------------------------- */

/* exp(-t^2/2) for 0 <= t <= LNP_GAUSS_END, from t2 = t^2 */
LNP_INLINE void lnp_gauss_rows(lnp_v16 *e, const lnp_v16 *t2, int rows)
{
    int r;
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        const lnp_v16 w = t2[r] * LNP_GAUSS_RATE, shifted = w + LNP_GAUSS_MAGIC;
        const lnp_v16 f = w - (shifted - LNP_GAUSS_MAGIC), f2 = f * f;
        const lnp_v16 p4 = LNP_GAUSS_E6 * f2 + (LNP_GAUSS_E5 * f + LNP_GAUSS_E4);
        const lnp_v16 p2 = p4 * f2 + (LNP_GAUSS_E3 * f + LNP_GAUSS_E2);
        e[r] = ((p2 * f + LNP_GAUSS_E1) * f + 4.0f) * (lnp_v16)((lnp_u16)shifted << 23);
    }
}

/* exp(t^2/2) Phi(-t) for 0 <= t <= LNP_GAUSS_END */
LNP_INLINE void lnp_gauss_tail_rows(lnp_v16 *tail, const lnp_v16 *t, const lnp_v16 *t2, int rows)
{
    int r;
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        const lnp_v16 p2 = LNP_GAUSS_N4 * t2[r] + (LNP_GAUSS_N3 * t[r] + LNP_GAUSS_N2);
        const lnp_v16 q4 = LNP_GAUSS_D5 * t[r] + LNP_GAUSS_D4;
        const lnp_v16 q2 = q4 * t2[r] + (LNP_GAUSS_D3 * t[r] + LNP_GAUSS_D2);
        const lnp_v16 p = (p2 * t[r] + LNP_GAUSS_N1) * t[r] + 0.5f;
        const lnp_v16 q = (q2 * t[r] + LNP_GAUSS_D1) * t[r] + 1.0f;
        tail[r] = p / q;
    }
}

/* |x|, or LNP_GAUSS_END where it is beyond (infinity too); NaN stays */
LNP_INLINE lnp_v16 lnp_gauss_argument(lnp_v16 x)
{
    const lnp_u16 u = (lnp_u16)x & 0x7fffffffu, over = u - LNP_GAUSS_END;
    const lnp_u16 keep = lnp_top(over | (0x7f800000u - u));
    return (lnp_v16)((over & keep) + LNP_GAUSS_END);
}

/* y = gelu(x), and slope = gelu'(x) unless NULL; y may be x */
LNP_INLINE void lnp_gelu_rows(lnp_v16 *y, lnp_v16 *slope, const lnp_v16 *x, int rows)
{
    lnp_v16 t[4], t2[4], tail[4], e[4];
    int r;
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        t[r] = lnp_gauss_argument(x[r]);
        t2[r] = t[r] * t[r];
    }
    lnp_gauss_tail_rows(tail, t, t2, rows);
    lnp_gauss_rows(e, t2, rows);
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        const lnp_u16 bits = (lnp_u16)x[r], negative = lnp_top(bits);
        if (slope) {
            const lnp_v16 side = e[r] * (t[r] * LNP_INV_SQRT_2PI - tail[r]);
            const lnp_u16 one = 0x3f800000u & ~negative, sign = bits & 0x80000000u;
            slope[r] = (lnp_v16)one + (lnp_v16)((lnp_u16)side ^ sign);
        }
        y[r] = (lnp_v16)(bits & ~negative) - t[r] * tail[r] * e[r];
    }
}

LNP_INLINE void lnp_gelu_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                              const void *context)
{
    lnp_v16 v[4];
    (void)context;
    lnp_load_rows(isa, v, o[1], rows, n);
    lnp_gelu_rows(v, NULL, v, rows);
    lnp_store_rows(isa, o[0], v, rows, n);
}

LNP_INLINE void lnp_gelu_body(lensnet_isa isa, float *y, const float *x, size_t n)
{
    const lnp_operand o[] = {lnp_rows_at(y, 0), lnp_rows_at(x, 0)};
    lnp_over_values(isa, lnp_gelu_step, o, 2, n, NULL);
}

LNP_INLINE void lnp_gelu_backward_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                       const void *context)
{
    lnp_v16 x[4], d[4], slope[4];
    int r;
    (void)context;
    lnp_load_rows(isa, x, o[2], rows, n);
    lnp_gelu_rows(x, slope, x, rows);
    lnp_load_rows(isa, d, o[1], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) d[r] = d[r] * slope[r];
    lnp_store_rows(isa, o[0], d, rows, n);
}

LNP_INLINE void lnp_gelu_backward_body(lensnet_isa isa, float *dx, const float *dy, const float *x,
                                       size_t n)
{
    const lnp_operand o[] = {lnp_rows_at(dx, 0), lnp_rows_at(dy, 0), lnp_rows_at(x, 0)};
    lnp_over_values(isa, lnp_gelu_backward_step, o, 3, n, NULL);
}

LNP_INLINE void lnp_gelu_squares_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                      const void *context)
{
    lnp_v16 v[4];
    int r;
    (void)context;
    lnp_load_rows(isa, v, o[1], rows, n);
    lnp_gelu_rows(v, NULL, v, rows);
    lnp_store_rows(isa, o[0], v, rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) v[r] = v[r] * v[r];
    lnp_add_rows(isa, o[2].at, v, rows, n);
}

LNP_INLINE void lnp_gelu_squares_body(lensnet_isa isa, float *a, size_t a_stride, const float *h,
                                      size_t h_stride, float *sums, size_t rows, size_t columns)
{
    const lnp_operand o[] = {lnp_rows_at(a, a_stride), lnp_rows_at(h, h_stride),
                             lnp_rows_at(sums, 0)};
    lnp_over_rows(isa, lnp_gelu_squares_step, o, 3, rows, columns);
}

/* -- sums over rows --------------------------------------------------------------------------- */

LNP_INLINE void lnp_column_sum_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                    const void *context)
{
    lnp_v16 v[4];
    (void)context;
    lnp_load_rows(isa, v, o[1], rows, n);
    lnp_add_rows(isa, o[0].at, v, rows, n);
}

LNP_INLINE void lnp_column_sum_body(lensnet_isa isa, float *sums, const float *x, size_t stride,
                                    size_t rows, size_t columns)
{
    const lnp_operand o[] = {lnp_rows_at(sums, 0), lnp_rows_at(x, stride)};
    lnp_over_rows(isa, lnp_column_sum_step, o, 2, rows, columns);
}

LNP_INLINE void lnp_column_products_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                         const void *context)
{
    lnp_v16 a[4], b[4];
    int r;
    (void)context;
    lnp_load_rows(isa, a, o[1], rows, n);
    lnp_load_rows(isa, b, o[2], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) a[r] = a[r] * b[r];
    lnp_add_rows(isa, o[0].at, a, rows, n);
}

LNP_INLINE void lnp_column_products_body(lensnet_isa isa, float *sums, const float *a,
                                         const float *b, size_t stride, size_t rows, size_t columns)
{
    const lnp_operand o[] = {lnp_rows_at(sums, 0), lnp_rows_at(a, stride), lnp_rows_at(b, stride)};
    lnp_over_rows(isa, lnp_column_products_step, o, 3, rows, columns);
}

/* -- LayerNorm -------------------------------------------------------------------------------- */

/* sum[r] += 16 columns of each row, or their squared distance from mean[r]; n = 16, or fewer, and then
 * the lanes that are not there give 0. */
LNP_INLINE void lnp_add_columns(lensnet_isa isa, lnp_lane_sum *sum, const float *const *row,
                                size_t i, size_t n, const float *mean, const lnp_v16 *means)
{
    int r;
    LNP_UNROLL
    for (r = 0; r < 4; r++) {
        lnp_v16 x = lnp_load_n(isa, row[r] + i, n, mean ? mean[r] : 0.0f);
        if (mean) {
            x = x - means[r];
            x = x * x;
        }
        lnp_lane_sum_add(isa, &sum[r], x);
    }
}

/* The mean of each row, or of its squared distances from `mean` unless that is NULL. */
LNP_INLINE void lnp_row_means(lensnet_isa isa, float *result, const float *const *row, size_t c,
                              const float *mean)
{
    lnp_lane_sum sum[4];
    lnp_v16 means[4];
    size_t i;
    int r;
    LNP_UNROLL
    for (r = 0; r < 4; r++) {
        sum[r] = lnp_lane_sum_zero();
        means[r] = lnp_splat_16(isa, mean ? mean[r] : 0.0f);
    }
    for (i = 0; i + 16 <= c; i += 16) lnp_add_columns(isa, sum, row, i, 16, mean, means);
    if (lnp_is_half(isa, c - i))
        lnp_add_columns(isa, sum, row, i, 8, mean, means);
    else if (i < c)
        lnp_add_columns(isa, sum, row, i, c - i, mean, means);
    LNP_UNROLL
    for (r = 0; r < 4; r++) result[r] = lnp_lane_sum_end(isa, &sum[r]) / (float)c;
}

LNP_INLINE void lnp_row_statistics_body(lensnet_isa isa, float *mean, float *rstd, const float *x,
                                        size_t stride, size_t rows, size_t c, float eps)
{
    size_t first, r;
    for (first = 0; first < rows; first += 4) {
        const size_t count = lnp_min(4, rows - first);
        const float *row[4];
        float means[4], variances[4];
        for (r = 0; r < 4; r++) row[r] = x + (first + lnp_min(r, count - 1)) * stride;
        lnp_row_means(isa, means, row, c, NULL);
        lnp_row_means(isa, variances, row, c, means);
        for (r = 0; r < count; r++) {
            mean[first + r] = means[r];
            rstd[first + r] = 1.0f / sqrtf(variances[r] + eps);
        }
    }
}

LNP_INLINE void lnp_normalize_columns(lensnet_isa isa, float *y, const float *x, lnp_v16 mean,
                                      lnp_v16 rstd, const float *w, const float *b, size_t n)
{
    const lnp_v16 v = (lnp_load_n(isa, x, n, 0.0f) - mean) * rstd;
    lnp_store_n(isa, y, v * lnp_load_n(isa, w, n, 0.0f) + lnp_load_n(isa, b, n, 0.0f), n);
}

LNP_INLINE void lnp_normalize_rows_body(lensnet_isa isa, float *y, size_t y_stride, const float *x,
                                        size_t x_stride, const float *mean, const float *rstd,
                                        const float *w, const float *b, size_t rows, size_t columns)
{
    size_t r, i;
    for (r = 0; r < rows; r++, y += y_stride, x += x_stride) {
        const lnp_v16 m = lnp_splat_16(isa, mean[r]), s = lnp_splat_16(isa, rstd[r]);
        for (i = 0; i + 16 <= columns; i += 16)
            lnp_normalize_columns(isa, y + i, x + i, m, s, w + i, b + i, 16);
        if (lnp_is_half(isa, columns - i))
            lnp_normalize_columns(isa, y + i, x + i, m, s, w + i, b + i, 8);
        else if (i < columns)
            lnp_normalize_columns(isa, y + i, x + i, m, s, w + i, b + i, columns - i);
    }
}

/* Up to four rows on their way back through LayerNorm. With xh = (x - mean) rstd and g = dy w:
 * dx = rstd (g - mean(g) - xh mean(g xh)), dw = sum of dy xh, db = sum of dy. */
typedef struct lnp_norm_rows {
    float *dx, *dw, *db;
    const float *dy, *x, *w;
    size_t c;
    lnp_v16 mean[4], rstd[4], mean_g[4], mean_gx[4];
} lnp_norm_rows;

LNP_INLINE void lnp_norm_sums(lensnet_isa isa, const lnp_norm_rows *t, lnp_lane_sum *sum_g,
                              lnp_lane_sum *sum_gx, int rows, size_t i, size_t n)
{
    const lnp_v16 w = lnp_load_n(isa, t->w + i, n, 0.0f);
    lnp_v16 dw = lnp_load_n(isa, t->dw + i, n, 0.0f), db = lnp_load_n(isa, t->db + i, n, 0.0f);
    int r;
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        const size_t at = (size_t)r * t->c + i;
        const lnp_v16 d = lnp_load_n(isa, t->dy + at, n, 0.0f), g = d * w;
        const lnp_v16 xh = (lnp_load_n(isa, t->x + at, n, 0.0f) - t->mean[r]) * t->rstd[r];
        lnp_lane_sum_add(isa, &sum_g[r], g);
        lnp_lane_sum_add(isa, &sum_gx[r], g * xh);
        dw = dw + d * xh;
        db = db + d;
    }
    lnp_store_n(isa, t->dw + i, dw, n);
    lnp_store_n(isa, t->db + i, db, n);
}

LNP_INLINE void lnp_norm_inputs(lensnet_isa isa, const lnp_norm_rows *t, int rows, size_t i,
                                size_t n)
{
    const lnp_v16 w = lnp_load_n(isa, t->w + i, n, 0.0f);
    int r;
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        const size_t at = (size_t)r * t->c + i;
        const lnp_v16 g = lnp_load_n(isa, t->dy + at, n, 0.0f) * w;
        const lnp_v16 xh = (lnp_load_n(isa, t->x + at, n, 0.0f) - t->mean[r]) * t->rstd[r];
        const lnp_v16 rest = (g - t->mean_g[r]) - xh * t->mean_gx[r];
        lnp_store_n(isa, t->dx + at, rest * t->rstd[r], n);
    }
}

LNP_INLINE void lnp_norm_backward(lensnet_isa isa, lnp_norm_rows *t, const float *mean,
                                  const float *rstd, int rows)
{
    const size_t c = t->c;
    lnp_lane_sum sum_g[4], sum_gx[4];
    size_t i;
    int r;
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        sum_g[r] = sum_gx[r] = lnp_lane_sum_zero();
        t->mean[r] = lnp_splat_16(isa, mean[r]);
        t->rstd[r] = lnp_splat_16(isa, rstd[r]);
    }
    for (i = 0; i + 16 <= c; i += 16) lnp_norm_sums(isa, t, sum_g, sum_gx, rows, i, 16);
    if (lnp_is_half(isa, c - i))
        lnp_norm_sums(isa, t, sum_g, sum_gx, rows, i, 8);
    else if (i < c)
        lnp_norm_sums(isa, t, sum_g, sum_gx, rows, i, c - i);
    if (!t->dx) return;
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        t->mean_g[r] = lnp_splat_16(isa, lnp_lane_sum_end(isa, &sum_g[r]) / (float)c);
        t->mean_gx[r] = lnp_splat_16(isa, lnp_lane_sum_end(isa, &sum_gx[r]) / (float)c);
    }
    for (i = 0; i + 16 <= c; i += 16) lnp_norm_inputs(isa, t, rows, i, 16);
    if (lnp_is_half(isa, c - i))
        lnp_norm_inputs(isa, t, rows, i, 8);
    else if (i < c)
        lnp_norm_inputs(isa, t, rows, i, c - i);
}

LNP_INLINE lnp_norm_rows lnp_norm_rows_at(float *dx, float *dw, float *db, const float *dy,
                                          const float *x, const float *w, size_t r, size_t c)
{
    lnp_norm_rows t;
    t.dx = dx ? dx + r * c : NULL;
    t.dw = dw;
    t.db = db;
    t.dy = dy + r * c;
    t.x = x + r * c;
    t.w = w;
    t.c = c;
    return t;
}

/* Four rows in step need the registers of AVX-512; with AVX2 one at a time was a tenth faster. */
LNP_INLINE void lnp_layer_norm_backward_body(lensnet_isa isa, float *dx, float *dw, float *db,
                                             const float *dy, const float *x, const float *mean,
                                             const float *rstd, const float *w, size_t rows,
                                             size_t c)
{
    size_t r = 0;
    for (; isa >= LENSNET_ISA_AVX512 && r + 4 <= rows; r += 4) {
        lnp_norm_rows t = lnp_norm_rows_at(dx, dw, db, dy, x, w, r, c);
        lnp_norm_backward(isa, &t, mean + r, rstd + r, 4);
    }
    for (; r < rows; r++) {
        lnp_norm_rows t = lnp_norm_rows_at(dx, dw, db, dy, x, w, r, c);
        lnp_norm_backward(isa, &t, mean + r, rstd + r, 1);
    }
}

/* -- GRN over rows ---------------------------------------------------------------------------- */

LNP_INLINE void lnp_scale_shift_columns(lensnet_isa isa, float *y, const float *x,
                                        const float *factor, const float *shift, size_t n)
{
    const lnp_v16 v = lnp_load_n(isa, x, n, 0.0f) * lnp_load_n(isa, factor, n, 0.0f);
    lnp_store_n(isa, y, v + lnp_load_n(isa, shift, n, 0.0f), n);
}

LNP_INLINE void lnp_scale_shift_rows_body(lensnet_isa isa, float *y, size_t y_stride,
                                          const float *x, size_t x_stride, const float *factor,
                                          const float *shift, size_t rows, size_t columns)
{
    size_t i;
    for (; rows; rows--, y += y_stride, x += x_stride) {
        for (i = 0; i + 16 <= columns; i += 16)
            lnp_scale_shift_columns(isa, y + i, x + i, factor + i, shift + i, 16);
        if (lnp_is_half(isa, columns - i))
            lnp_scale_shift_columns(isa, y + i, x + i, factor + i, shift + i, 8);
        else if (i < columns)
            lnp_scale_shift_columns(isa, y + i, x + i, factor + i, shift + i, columns - i);
    }
}

LNP_INLINE void lnp_grn_first_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                   const void *context)
{
    lnp_v16 h[4], da[4], slope[4];
    int r;
    (void)context;
    lnp_load_rows(isa, h, o[4], rows, n);
    lnp_load_rows(isa, da, o[5], rows, n);
    lnp_gelu_rows(h, slope, h, rows);
    lnp_store_rows(isa, o[0], h, rows, n);
    lnp_store_rows(isa, o[1], slope, rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) h[r] = da[r] * h[r];
    lnp_add_rows(isa, o[2].at, h, rows, n);
    lnp_add_rows(isa, o[3].at, da, rows, n);
}

LNP_INLINE void lnp_grn_backward_first_body(lensnet_isa isa, float *a, float *slope,
                                            float *products, float *dbeta, const float *h,
                                            const float *da, size_t stride, size_t rows,
                                            size_t columns)
{
    const lnp_operand o[] = {lnp_rows_at(a, stride),   lnp_rows_at(slope, stride),
                             lnp_rows_at(products, 0), lnp_rows_at(dbeta, 0),
                             lnp_rows_at(h, stride),   lnp_rows_at(da, stride)};
    lnp_over_rows(isa, lnp_grn_first_step, o, 6, rows, columns);
}

/* v = dy * factor + coef * x, of these operands: dy, x, factor, coef */
LNP_INLINE void lnp_grn_backward_values(lensnet_isa isa, lnp_v16 *v, const lnp_operand *o, int rows,
                                        size_t n)
{
    const lnp_v16 f = lnp_load_n(isa, o[2].at, n, 0.0f), k = lnp_load_n(isa, o[3].at, n, 0.0f);
    lnp_v16 x[4];
    int r;
    lnp_load_rows(isa, v, o[0], rows, n);
    lnp_load_rows(isa, x, o[1], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) v[r] = v[r] * f + k * x[r];
}

LNP_INLINE void lnp_grn_second_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                    const void *context)
{
    lnp_v16 v[4], slope[4];
    int r;
    (void)context;
    lnp_grn_backward_values(isa, v, o + 2, rows, n);
    lnp_load_rows(isa, slope, o[6], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) v[r] = v[r] * slope[r];
    lnp_store_rows(isa, o[0], v, rows, n);
    lnp_add_rows(isa, o[1].at, v, rows, n);
}

LNP_INLINE void lnp_grn_backward_second_body(lensnet_isa isa, float *dh, float *db, const float *da,
                                             const float *a, const float *slope,
                                             const float *factor, const float *coef, size_t stride,
                                             size_t rows, size_t columns)
{
    const lnp_operand o[] = {lnp_rows_at(dh, stride),   lnp_rows_at(db, 0),
                             lnp_rows_at(da, stride),   lnp_rows_at(a, stride),
                             lnp_rows_at(factor, 0),    lnp_rows_at(coef, 0),
                             lnp_rows_at(slope, stride)};
    lnp_over_rows(isa, lnp_grn_second_step, o, 7, rows, columns);
}

LNP_INLINE void lnp_grn_rows_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                  const void *context)
{
    lnp_v16 v[4];
    (void)context;
    lnp_grn_backward_values(isa, v, o + 1, rows, n);
    lnp_store_rows(isa, o[0], v, rows, n);
}

LNP_INLINE void lnp_grn_backward_rows_body(lensnet_isa isa, float *dx, const float *dy,
                                           const float *x, const float *factor, const float *coef,
                                           size_t stride, size_t rows, size_t columns)
{
    const lnp_operand o[] = {lnp_rows_at(dx, stride), lnp_rows_at(dy, stride),
                             lnp_rows_at(x, stride), lnp_rows_at(factor, 0), lnp_rows_at(coef, 0)};
    lnp_over_rows(isa, lnp_grn_rows_step, o, 5, rows, columns);
}

/* -- elementwise ------------------------------------------------------------------------------ */

/* y = z * s + x, or z * s where there is no x (two operands). */
LNP_INLINE void lnp_scaled_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                const void *context, int with_x)
{
    const lnp_v16 s = lnp_splat_16(isa, *(const float *)context);
    lnp_v16 z[4], x[4];
    int r;
    lnp_load_rows(isa, z, o[1], rows, n);
    if (with_x) lnp_load_rows(isa, x, o[2], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        z[r] = z[r] * s;
        if (with_x) z[r] = z[r] + x[r];
    }
    lnp_store_rows(isa, o[0], z, rows, n);
}

LNP_INLINE void lnp_add_scaled_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                    const void *context)
{
    lnp_scaled_step(isa, o, rows, n, context, 1);
}

LNP_INLINE void lnp_scale_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                               const void *context)
{
    lnp_scaled_step(isa, o, rows, n, context, 0);
}

LNP_INLINE void lnp_add_scaled_body(lensnet_isa isa, float *y, const float *x, const float *z,
                                    float s, size_t n)
{
    const lnp_operand o[] = {lnp_rows_at(y, 0), lnp_rows_at(z, 0), lnp_rows_at(x, 0)};
    lnp_over_values(isa, lnp_add_scaled_step, o, 3, n, &s);
}

LNP_INLINE void lnp_scale_body(lensnet_isa isa, float *y, const float *x, float s, size_t n)
{
    const lnp_operand o[] = {lnp_rows_at(y, 0), lnp_rows_at(x, 0)};
    lnp_over_values(isa, lnp_scale_step, o, 2, n, &s);
}

LNP_INLINE void lnp_add_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                             const void *context)
{
    lnp_v16 a[4], b[4];
    int r;
    (void)context;
    lnp_load_rows(isa, a, o[1], rows, n);
    lnp_load_rows(isa, b, o[2], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) a[r] = a[r] + b[r];
    lnp_store_rows(isa, o[0], a, rows, n);
}

LNP_INLINE void lnp_add_body(lensnet_isa isa, float *y, const float *a, const float *b, size_t n)
{
    const lnp_operand o[] = {lnp_rows_at(y, 0), lnp_rows_at(a, 0), lnp_rows_at(b, 0)};
    lnp_over_values(isa, lnp_add_step, o, 3, n, NULL);
}

/* Lanes x < 0 or x = -0, without NaN: the bits lie between 80000000 and ff800000. */
LNP_INLINE lnp_u16 lnp_negative(lnp_u16 x) { return lnp_top((x + 0x007fffffu) & x); }

/* Lanes x <= 0: the above, and +0, the only word without its top bit that gets it by - 1. */
LNP_INLINE lnp_u16 lnp_not_positive(lnp_u16 x) { return lnp_negative(x) | lnp_top((x - 1u) & ~x); }

LNP_INLINE void lnp_relu_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                              const void *context)
{
    lnp_v16 v[4];
    int r;
    (void)context;
    lnp_load_rows(isa, v, o[1], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) v[r] = (lnp_v16)((lnp_u16)v[r] & ~lnp_negative((lnp_u16)v[r]));
    lnp_store_rows(isa, o[0], v, rows, n);
}

LNP_INLINE void lnp_relu_body(lensnet_isa isa, float *y, const float *x, size_t n)
{
    const lnp_operand o[] = {lnp_rows_at(y, 0), lnp_rows_at(x, 0)};
    lnp_over_values(isa, lnp_relu_step, o, 2, n, NULL);
}

LNP_INLINE void lnp_relu_backward_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                       const void *context)
{
    lnp_v16 d[4], x[4];
    int r;
    (void)context;
    lnp_load_rows(isa, d, o[1], rows, n);
    lnp_load_rows(isa, x, o[2], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) d[r] = (lnp_v16)((lnp_u16)d[r] & ~lnp_not_positive((lnp_u16)x[r]));
    lnp_store_rows(isa, o[0], d, rows, n);
}

LNP_INLINE void lnp_relu_backward_body(lensnet_isa isa, float *dx, const float *dy, const float *x,
                                       size_t n)
{
    const lnp_operand o[] = {lnp_rows_at(dx, 0), lnp_rows_at(dy, 0), lnp_rows_at(x, 0)};
    lnp_over_values(isa, lnp_relu_backward_step, o, 3, n, NULL);
}

LNP_INLINE void lnp_average_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                 const void *context)
{
    const lnp_v16 s = lnp_splat_16(isa, *(const float *)context);
    lnp_v16 e[4], w[4];
    int r;
    lnp_load_rows(isa, e, o[0], rows, n);
    lnp_load_rows(isa, w, o[1], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) e[r] = (w[r] - e[r]) * s + e[r];
    lnp_store_rows(isa, o[0], e, rows, n);
}

LNP_INLINE void lnp_average_towards_body(lensnet_isa isa, float *e, const float *w, float s,
                                         size_t n)
{
    const lnp_operand o[] = {lnp_rows_at(e, 0), lnp_rows_at(w, 0)};
    lnp_over_values(isa, lnp_average_step, o, 2, n, &s);
}

/* -- optimiser -------------------------------------------------------------------------------- */

LNP_INLINE void lnp_square_roots_body(lensnet_isa isa, float *y, const float *x, size_t n)
{
    const size_t lanes = lnp_lanes_of(isa);
    size_t i;
    for (i = 0; i + lanes <= n; i += lanes)
        lnp_store(isa, y + i, lnp_square_root(isa, lnp_load(isa, x + i)));
    for (; i < n; i++) y[i] = sqrtf(x[i]);
}

LNP_INLINE lnp_d8 lnp_d_squares(const float *x)
{
    const lnp_d8 d = __builtin_convertvector(*(const lnp_v8 *)x, lnp_d8);
    return d * d;
}

LNP_INLINE void lnp_chunk_squares_body(lensnet_isa isa, double *sum, const float *x, size_t n)
{
    lnp_d8 low = {0.0}, high = {0.0};
    float tail[64] = {0.0f};
    double lanes[8];
    size_t l;
    (void)isa;
    for (;; x += 64, n -= 64) {
        if (n < 64) {
            for (l = 0; l < n; l++) tail[l] = x[l];
            x = tail;
        }
        low = low + lnp_d_squares(x) + lnp_d_squares(x + 16) + lnp_d_squares(x + 32) +
              lnp_d_squares(x + 48);
        high = high + lnp_d_squares(x + 8) + lnp_d_squares(x + 24) + lnp_d_squares(x + 40) +
               lnp_d_squares(x + 56);
        if (n <= 64) break;
    }
    *(lnp_d8 *)lanes = low + high;
    for (l = 0; l < 4; l++) lanes[l] += lanes[l + 4];
    *sum = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

/* m = beta1 m + (1 - beta1) g, v = beta2 v + ((1 - beta2) g) g */
LNP_INLINE void lnp_adamw_moments_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                       const void *context)
{
    const lnp_adamw_constants *k = (const lnp_adamw_constants *)context;
    const lnp_v16 beta1 = lnp_splat_16(isa, k->beta1), rest1 = lnp_splat_16(isa, k->rest1);
    const lnp_v16 beta2 = lnp_splat_16(isa, k->beta2), rest2 = lnp_splat_16(isa, k->rest2);
    lnp_v16 m[4], v[4], g[4];
    int r;
    lnp_load_rows(isa, m, o[0], rows, n);
    lnp_load_rows(isa, v, o[1], rows, n);
    lnp_load_rows(isa, g, o[2], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) {
        m[r] = m[r] * beta1 + rest1 * g[r];
        v[r] = v[r] * beta2 + rest2 * g[r] * g[r];
    }
    lnp_store_rows(isa, o[0], m, rows, n);
    lnp_store_rows(isa, o[1], v, rows, n);
}

LNP_INLINE void lnp_adamw_moments_body(lensnet_isa isa, float *m, float *v, const float *g,
                                       size_t n, const lnp_adamw_constants *k)
{
    const lnp_adamw_constants constants = *k;
    const lnp_operand o[] = {lnp_rows_at(m, 0), lnp_rows_at(v, 0), lnp_rows_at(g, 0)};
    lnp_over_values(isa, lnp_adamw_moments_step, o, 3, n, &constants);
}

/* p = p decay - step m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon) */
LNP_INLINE void lnp_adamw_apply_step(lensnet_isa isa, const lnp_operand *o, int rows, size_t n,
                                     const void *context)
{
    const lnp_adamw_constants *k = (const lnp_adamw_constants *)context;
    const lnp_v16 decay = lnp_splat_16(isa, k->decay), step = lnp_splat_16(isa, k->step);
    const lnp_v16 root = lnp_splat_16(isa, k->root), epsilon = lnp_splat_16(isa, k->epsilon);
    lnp_v16 p[4], m[4], roots[4];
    int r;
    lnp_load_rows(isa, p, o[0], rows, n);
    lnp_load_rows(isa, m, o[1], rows, n);
    lnp_load_rows(isa, roots, o[2], rows, n);
    LNP_UNROLL
    for (r = 0; r < rows; r++) p[r] = p[r] * decay - step * (m[r] / (roots[r] / root + epsilon));
    lnp_store_rows(isa, o[0], p, rows, n);
}

LNP_INLINE void lnp_adamw_apply_body(lensnet_isa isa, float *p, const float *m, const float *root,
                                     size_t n, const lnp_adamw_constants *k)
{
    const lnp_adamw_constants constants = *k;
    const lnp_operand o[] = {lnp_rows_at(p, 0), lnp_rows_at(m, 0), lnp_rows_at(root, 0)};
    lnp_over_values(isa, lnp_adamw_apply_step, o, 3, n, &constants);
}

#endif

/* -- one table per instruction set ------------------------------------------------------------ */

#define LNP_ARGUMENTS(...) __VA_ARGS__
#define LNP_ROW_PORTABLE(name, parameters, arguments)                                              \
    static void lnp_##name##_portable parameters                                                   \
    {                                                                                              \
        lnp_##name##_body(LENSNET_ISA_PORTABLE, LNP_ARGUMENTS arguments);                          \
    }
#define LNP_ROW_AVX2(name, parameters, arguments)                                                  \
    LNP_TARGET_AVX2 static void lnp_##name##_avx2 parameters                                       \
    {                                                                                              \
        lnp_##name##_body(LENSNET_ISA_AVX2, LNP_ARGUMENTS arguments);                              \
    }
#define LNP_ROW_AVX512(name, parameters, arguments)                                                \
    LNP_TARGET_AVX512 static void lnp_##name##_avx512 parameters                                   \
    {                                                                                              \
        lnp_##name##_body(LENSNET_ISA_AVX512, LNP_ARGUMENTS arguments);                            \
    }

/* An x86 without AVX2 emulates the multiply-add of its products; rows are the least of its cost, so
 * that it has the `_ref` twins and nobody compiles more. */
#define LNP_ROWS_PORTABLE (LNP_VECTORS && !LNP_X86)

#if LNP_ROWS_PORTABLE
LNP_ROW_KERNELS(LNP_ROW_PORTABLE)
#endif
#if LNP_X86
LNP_ROW_KERNELS(LNP_ROW_AVX2)
#endif
#if LNP_AVX512
LNP_ROW_KERNELS(LNP_ROW_AVX512)
#endif
#undef LNP_ROW_PORTABLE
#undef LNP_ROW_AVX2
#undef LNP_ROW_AVX512
#undef LNP_ARGUMENTS

/* Copies the table of one instruction set, which must be one that lnp_detect_isa gave. */
static lnp_row_kernels lnp_row_kernels_for(lensnet_isa isa)
{
#define LNP_ROW_ENTRY_REF(name, parameters, arguments)      lnp_##name##_ref,
#define LNP_ROW_ENTRY_PORTABLE(name, parameters, arguments) lnp_##name##_portable,
#define LNP_ROW_ENTRY_AVX2(name, parameters, arguments)     lnp_##name##_avx2,
#define LNP_ROW_ENTRY_AVX512(name, parameters, arguments)   lnp_##name##_avx512,
    const lnp_row_kernels reference = {LNP_ROW_KERNELS(LNP_ROW_ENTRY_REF)};
#if LNP_AVX512
    const lnp_row_kernels avx512 = {LNP_ROW_KERNELS(LNP_ROW_ENTRY_AVX512)};
    if (isa >= LENSNET_ISA_AVX512) return avx512;
#endif
#if LNP_X86
    {
        const lnp_row_kernels avx2 = {LNP_ROW_KERNELS(LNP_ROW_ENTRY_AVX2)};
        if (isa == LENSNET_ISA_AVX2) return avx2;
    }
#endif
#if LNP_ROWS_PORTABLE
    {
        const lnp_row_kernels portable = {LNP_ROW_KERNELS(LNP_ROW_ENTRY_PORTABLE)};
        if (isa == LENSNET_ISA_PORTABLE) return portable;
    }
#endif
#undef LNP_ROW_ENTRY_REF
#undef LNP_ROW_ENTRY_PORTABLE
#undef LNP_ROW_ENTRY_AVX2
#undef LNP_ROW_ENTRY_AVX512
    (void)isa;
    return reference;
}

/* -- sums over the pixels of one sample, by the chunk rule ------------------------------------ */

#define LNP_STRIP ((size_t)64) /* columns whose partial sums live on the stack */

/* totals[c] = partials[0][c] + partials[1][c] + ... in order, in double; partials are [chunks][c]. */
static void lnp_chunk_totals(double *totals, const float *partials, size_t chunks, size_t c)
{
    size_t k, i;
    for (i = 0; i < c; i++) totals[i] = 0.0;
    for (k = 0; k < chunks; k++, partials += c)
        for (i = 0; i < c; i++) totals[i] += (double)partials[i];
}

/* Sums of a, or of a * b where b is given, over the pixels of one sample; at most LNP_STRIP columns. */
static void lnp_strip_totals(const lnp_row_kernels *kernels, double *totals, const float *a,
                             const float *b, size_t stride, size_t pixels, size_t columns)
{
    float partial[LNP_STRIP];
    size_t first, c;
    for (c = 0; c < columns; c++) totals[c] = 0.0;
    for (first = 0; first < pixels; first += LNP_CHUNK_ROWS) {
        const size_t rows = lnp_min(LNP_CHUNK_ROWS, pixels - first), at = first * stride;
        memset(partial, 0, sizeof partial);
        if (b)
            kernels->column_products(partial, a + at, b + at, stride, rows, columns);
        else
            kernels->column_sum(partial, a + at, stride, rows, columns);
        for (c = 0; c < columns; c++) totals[c] += (double)partial[c];
    }
}

/* totals[c] = sum of a * b over the pixels of one sample; a may be b (GRN's squares). */
static void lnp_pixel_products(const lnp_row_kernels *kernels, double *totals, const float *a,
                               const float *b, size_t stride, size_t pixels, size_t columns)
{
    size_t c;
    for (c = 0; c < columns; c += LNP_STRIP)
        lnp_strip_totals(kernels, totals + c, a + c, b + c, stride, pixels,
                         lnp_min(LNP_STRIP, columns - c));
}

/* y (n, c) = mean over the pixels of x (n, pixels, c); pixels >= 1 */
static void lnp_pool_mean(const lnp_row_kernels *kernels, float *y, const float *x, size_t n,
                          size_t pixels, size_t c)
{
    double totals[LNP_STRIP];
    size_t i, first, j;
    for (i = 0; i < n; i++, x += pixels * c, y += c)
        for (first = 0; first < c; first += LNP_STRIP) {
            const size_t columns = lnp_min(LNP_STRIP, c - first);
            lnp_strip_totals(kernels, totals, x + first, NULL, c, pixels, columns);
            for (j = 0; j < columns; j++) y[first + j] = (float)(totals[j] / (double)pixels);
        }
}

/* dx (n, pixels, c) = dy (n, c) / pixels */
static void lnp_pool_mean_backward(float *dx, const float *dy, size_t n, size_t pixels, size_t c)
{
    size_t i, p, j;
    for (i = 0; i < n; i++, dy += c) {
        const float *first = dx;
        if (pixels)
            for (j = 0; j < c; j++) dx[j] = dy[j] / (float)pixels;
        for (p = 1; p < pixels; p++) memcpy(dx + p * c, first, c * sizeof *dx);
        dx += pixels * c;
    }
}

/* -- GRN of one sample (Woo et al. 2023, ConvNeXt V2) ----------------------------------------- */

/* Ends a lane reduction in double as lnp_lanes_sum does in float. */
static double lnp_double_lanes_sum(double *lanes)
{
    int l;
    for (l = 0; l < 8; l++) lanes[l] += lanes[l + 8];
    for (l = 0; l < 4; l++) lanes[l] += lanes[l + 4];
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

/* D = mean over channels of G, + 1e-6 */
static double lnp_grn_divisor(const float *norm, size_t c)
{
    double lanes[16] = {0.0};
    size_t i;
    for (i = 0; i < c; i++) lanes[i % 16] += (double)norm[i];
    return lnp_double_lanes_sum(lanes) / (double)c + 1e-6;
}

/* From the sums of squares over pixels: norm = G = sqrt(squares), factor = 1 + gamma R, R = G / D;
 * the output is x * factor + beta. */
static void lnp_grn_factors(float *norm, float *factor, const double *squares, const float *gamma,
                            size_t c)
{
    double divisor;
    size_t i;
    for (i = 0; i < c; i++) norm[i] = (float)sqrt(squares[i]);
    divisor = lnp_grn_divisor(norm, c);
    for (i = 0; i < c; i++) factor[i] = 1.0f + gamma[i] * (float)((double)norm[i] / divisor);
}

/* From P, the sums over pixels of dy * x: with S = gamma P and t = sum of S G,
 * coef = (S / D - t / (C D^2)) / G (0 where G = 0, by convention), factor as above and
 * dgamma += R P; then dx = dy * factor + coef * x. */
static void lnp_grn_coefficients(float *coef, float *factor, float *dgamma, const double *products,
                                 const float *norm, const float *gamma, size_t c)
{
    const double divisor = lnp_grn_divisor(norm, c);
    double lanes[16] = {0.0}, shared;
    size_t i;
    for (i = 0; i < c; i++) lanes[i % 16] += (double)gamma[i] * products[i] * (double)norm[i];
    shared = lnp_double_lanes_sum(lanes) / ((double)c * divisor * divisor);
    for (i = 0; i < c; i++) {
        const double g = (double)norm[i], s = (double)gamma[i] * products[i];
        const float ratio = (float)(g / divisor);
        coef[i] = g > 0.0 ? (float)((s / divisor - shared) / g) : 0.0f;
        factor[i] = 1.0f + gamma[i] * ratio;
        dgamma[i] += ratio * (float)products[i];
    }
}

/* -- max pooling ------------------------------------------------------------------------------ */

typedef struct lnp_pool_shape {
    size_t n, h, w, c;          /* input, h * w < 2^31 */
    size_t kernel, stride, pad; /* pad <= kernel / 2: every window meets the image */
    size_t out_h, out_w;        /* (h + 2 pad - kernel) / stride + 1 */
} lnp_pool_shape;

/* One output pixel; x and argmax at its sample and pixel. A NaN wins, as in PyTorch. */
static void lnp_max_pool_pixel(float *y, int32_t *argmax, const float *x, const lnp_pool_shape *s,
                               size_t oy, size_t ox)
{
    size_t ky, kx, i;
    int first = 1;
    for (ky = 0; ky < s->kernel; ky++)
        for (kx = 0; kx < s->kernel; kx++) {
            const size_t iy = oy * s->stride + ky - s->pad, ix = ox * s->stride + kx - s->pad;
            const float *in = x + (iy * s->w + ix) * s->c;
            if (iy >= s->h || ix >= s->w) continue; /* also where the subtraction wrapped */
            for (i = 0; i < s->c; i++)
                if (first || in[i] > y[i] || in[i] != in[i]) {
                    y[i] = in[i];
                    argmax[i] = (int32_t)(iy * s->w + ix);
                }
            first = 0;
        }
}

/* y, argmax (n, out_h, out_w, c); argmax counts pixels of the sample */
static void lnp_pool_max(float *y, int32_t *argmax, const float *x, const lnp_pool_shape *s)
{
    size_t i, oy, ox;
    for (i = 0; i < s->n; i++, x += s->h * s->w * s->c)
        for (oy = 0; oy < s->out_h; oy++)
            for (ox = 0; ox < s->out_w; ox++, y += s->c, argmax += s->c)
                lnp_max_pool_pixel(y, argmax, x, s, oy, ox);
}

/* dx is overwritten; overlapping windows add in the order of the output */
static void lnp_pool_max_backward(float *dx, const float *dy, const int32_t *argmax,
                                  const lnp_pool_shape *s)
{
    const size_t outputs = s->out_h * s->out_w;
    size_t i, o, j;
    memset(dx, 0, s->n * s->h * s->w * s->c * sizeof *dx);
    for (i = 0; i < s->n; i++, dx += s->h * s->w * s->c)
        for (o = 0; o < outputs; o++, dy += s->c, argmax += s->c)
            for (j = 0; j < s->c; j++) dx[(size_t)argmax[j] * s->c + j] += dy[j];
}

/* -- loss ------------------------------------------------------------------------------------- */

/* The largest logit of a row and log(sum(exp(x - largest))), in double. */
static double lnp_log_normalizer(double *largest, const float *logits, size_t k)
{
    double sum = 0.0, top = (double)logits[0];
    size_t i;
    for (i = 1; i < k; i++)
        if ((double)logits[i] > top) top = (double)logits[i];
    for (i = 0; i < k; i++) sum += lensnet_exp((double)logits[i] - top);
    *largest = top;
    return lensnet_log(sum);
}

/* p = softmax of each row; p may be logits; k >= 1 */
static void lnp_softmax(float *p, const float *logits, size_t rows, size_t k)
{
    size_t r, i;
    for (r = 0; r < rows; r++, p += k, logits += k) {
        double top;
        const double log_sum = lnp_log_normalizer(&top, logits, k);
        for (i = 0; i < k; i++) p[i] = (float)lensnet_exp((double)logits[i] - top - log_sum);
    }
}

/* losses[r] = -sum over k of T log p, not scaled; dlogits = scale (p sum(T) - T), may be NULL or
 * logits. T need not sum to 1 (class weights, ignored rows). */
static void lnp_softmax_cross_entropy(double *losses, float *dlogits, const float *logits,
                                      const float *targets, double scale, size_t rows, size_t k)
{
    size_t r, i;
    for (r = 0; r < rows; r++, logits += k, targets += k) {
        double top, loss = 0.0, total = 0.0;
        const double log_sum = lnp_log_normalizer(&top, logits, k);
        for (i = 0; i < k; i++) total += (double)targets[i];
        for (i = 0; i < k; i++) {
            const double t = (double)targets[i], log_p = (double)logits[i] - top - log_sum;
            if (t < 0.0 || t > 0.0) loss -= t * log_p; /* 0 log 0 = 0 */
            if (dlogits) dlogits[i] = (float)(scale * (lensnet_exp(log_p) * total - t));
        }
        losses[r] = loss;
        if (dlogits) dlogits += k;
    }
}

/* -- optimiser, whole arrays ------------------------------------------------------------------ */

/* Constants of step `step` = 1, 2, ... (Loshchilov & Hutter 2019; PyTorch's order of operations) */
static lnp_adamw_constants lnp_adamw_constants_at(double learning_rate, double weight_decay,
                                                  double beta1, double beta2, double epsilon,
                                                  uint64_t step)
{
    lnp_adamw_constants k;
    k.decay = (float)(1.0 - learning_rate * weight_decay);
    k.beta1 = (float)beta1;
    k.rest1 = (float)(1.0 - beta1);
    k.beta2 = (float)beta2;
    k.rest2 = (float)(1.0 - beta2);
    k.step = (float)(learning_rate / (1.0 - lensnet_pow(beta1, (double)step)));
    k.root = (float)sqrt(1.0 - lensnet_pow(beta2, (double)step));
    k.epsilon = (float)epsilon;
    return k;
}

/* One AdamW step on n values: parameters, moments, gradients. Any split gives the same bits. */
static void lnp_adamw_update(const lnp_row_kernels *kernels, float *p, float *m, float *v,
                             const float *g, size_t n, const lnp_adamw_constants *constants)
{
    float root[1024];
    size_t i;
    for (i = 0; i < n; i += 1024) {
        const size_t part = lnp_min(1024, n - i);
        kernels->adamw_moments(m + i, v + i, g + i, part, constants);
        kernels->square_roots(root, v + i, part);
        kernels->adamw_apply(p + i, m + i, root, part, constants);
    }
}

#define LNP_ROUND_CHUNKS 256

typedef struct lnp_square_sums {
    const lnp_row_kernels *kernels;
    const float *x;
    size_t n;
    double *partial;
} lnp_square_sums;

static void lnp_chunk_squares_task(const void *context, size_t chunk, size_t worker)
{
    const lnp_square_sums *sums = (const lnp_square_sums *)context;
    const size_t at = chunk * LNP_CHUNK_VALUES;
    (void)worker;
    sums->kernels->chunk_squares(sums->partial + chunk, sums->x + at,
                                 lnp_min(LNP_CHUNK_VALUES, sums->n - at));
}

/* Sum of x^2 in double: chunks of LNP_CHUNK_VALUES by any thread, their sums added in order. */
static double lnp_sum_of_squares(const lnp_row_kernels *kernels, const float *x, size_t n,
                                 lnp_team *team)
{
    double sum = 0.0, partial[LNP_ROUND_CHUNKS];
    lnp_square_sums sums;
    sums.kernels = kernels;
    sums.partial = partial;
    for (; n; x += sums.n, n -= sums.n) {
        size_t i, chunks;
        sums.x = x;
        sums.n = lnp_min(n, LNP_ROUND_CHUNKS * LNP_CHUNK_VALUES);
        chunks = lnp_ceil_div(sums.n, LNP_CHUNK_VALUES);
        lnp_team_run(team, lnp_chunk_squares_task, &sums, chunks);
        for (i = 0; i < chunks; i++) sum += partial[i];
    }
    return sum;
}
/* =================================================================================================
 * >>gemm-tiles  The tiles of the matrix products: one table of kernels per instruction set. A tile
 * keeps rows x 2 vectors of the output in registers and runs over the reduction index.
 *
 * 14 x 32 with AVX-512: 28 of 32 registers, 14 cycles of arithmetic against 8 of loads where a
 * core does two of each a cycle. 6 x 16 with AVX2 and NEON: 12 of 16 and 24 of 32. There is a tile
 * for every smaller number of rows and for half the columns, so that edges cost what they hold: a
 * tile of 12 rows takes 12 / 14 of the time. The right operand lies in panels [k][columns], rows
 * of the left one in [tile][row][k] with a constant pitch, so that one pointer and displacements
 * reach every row: that makes packing a plain copy, which whoever fills it can do in passing. 400
 * floats are 25 cache lines: an odd number, so that the rows fall into different sets of the
 * first-level cache.
 * ============================================================================================== */

/* Steps of k that a tile takes at a time: a panel of 384 x 32 floats is 48 KB. Blocks of 256 and
 * 320 were up to 4 % slower. */
#define LNP_K_BLOCK ((size_t)384)
/* Floats from row to row in a packed tile of the left operand: LNP_K_BLOCK + 16. */
#define LNP_ROW_PITCH        400
#define LNP_TILE_ROWS_MAX    14
#define LNP_TILE_VECTORS_MAX 4
#define LNP_COLUMNS_MAX      32

/* One tile: c[i][j] = chain over k of a(i, k) * b[k][j]. With `start` (one value per column) the
 * chains begin there, else with what stands in c. `ahead`: one cache line per step of k is fetched
 * from here, for a later tile. */
typedef void (*lnp_tile)(const float *a, const float *b, size_t steps, const float *start, float *c,
                         size_t c_stride, const float *ahead);

/* Copies rows x count floats into rows of `width` floats, zero beyond count. */
typedef void (*lnp_copy_block)(float *packed, size_t width, const float *source, size_t stride,
                               size_t rows, size_t count);

/* Cuts every row into `pieces` of count floats, the first `longer` of them of count + 1. Piece p of
 * row i goes to dealt + p * pitch + i * width, zero beyond its floats. */
typedef void (*lnp_deal)(float *dealt, size_t pitch, size_t width, const float *source,
                         size_t stride, size_t rows, size_t pieces, size_t count, size_t longer);

/* packed[k][j] = w[j][k] for j < count, 0 for count <= j < width. */
typedef void (*lnp_pack_panel)(float *packed, size_t width, const float *w, size_t stride,
                               size_t count, size_t k);

typedef struct lnp_gemm_kernels {
    lensnet_isa isa;
    size_t rows;          /* of a tile */
    size_t lanes;         /* columns of a half panel */
    size_t columns;       /* of a panel: 2 * lanes */
    size_t gradient_step; /* floats per step of the reduction in packed dY, >= rows */
    /* Tiles by [half or whole panel][rows - 1]. */
    lnp_tile product[2][LNP_TILE_ROWS_MAX];  /* a(i, k) = a[i * LNP_ROW_PITCH + k] */
    lnp_tile gradient[2][LNP_TILE_ROWS_MAX]; /* a(i, k) = a[k * gradient_step + i] */
    lnp_copy_block copy_block;
    lnp_copy_block pack_rows; /* the same, past the caches: weights outgrow them */
    lnp_deal deal;
    lnp_pack_panel pack_panel;
    const struct lnp_bfloat_kernels *bfloat; /* NULL: float32 */
} lnp_gemm_kernels;

/* Rows of weights that are fetched ahead of those being packed. */
#define LNP_PACK_AHEAD 8

#define LNP_TILE_PARAMETERS                                                                        \
    const float *a, const float *b, size_t steps, const float *start, float *c, size_t c_stride,   \
        const float *ahead

/* ---- plain loops: for machines without one of the sets below, and for rests ------------------ */

static void lnp_copy_block_portable(float *packed, size_t width, const float *source, size_t stride,
                                    size_t rows, size_t count)
{
    size_t i, j;
    for (i = 0; i < rows; i++, packed += width, source += stride) {
        memcpy(packed, source, count * sizeof(float));
        for (j = count; j < width; j++) packed[j] = 0.0f;
    }
}

static void lnp_deal_portable(float *dealt, size_t pitch, size_t width, const float *source,
                              size_t stride, size_t rows, size_t pieces, size_t count,
                              size_t longer)
{
    size_t p, floats;
    for (p = 0; p < pieces; p++, source += floats, dealt += pitch) {
        floats = count + (p < longer);
        lnp_copy_block_portable(dealt, width, source, stride, rows, floats);
    }
}

static void lnp_pack_panel_portable(float *packed, size_t width, const float *w, size_t stride,
                                    size_t count, size_t k)
{
    size_t i, j;
    for (i = 0; i < k; i++)
        for (j = 0; j < width; j++) packed[i * width + j] = j < count ? w[j * stride + i] : 0.0f;
}

/* The reference path has no tiles: its "panels" are single columns, that is, (n, k) row-major. */
static const lnp_gemm_kernels lnp_gemm_reference = {LENSNET_ISA_REFERENCE,
                                                    1,
                                                    1,
                                                    1,
                                                    1,
                                                    {{NULL}, {NULL}},
                                                    {{NULL}, {NULL}},
                                                    lnp_copy_block_portable,
                                                    lnp_copy_block_portable,
                                                    lnp_deal_portable,
                                                    lnp_pack_panel_portable,
                                                    NULL};

#if LNP_VECTORS
/* ---- the tile -------------------------------------------------------------------------------- */

/* rows x vectors sums of chains, in registers from the beginning to the end: `isa`, `rows` and
 * `vectors` are constants. (Checked in the assembly of gcc 12 and clang 14: no spill in the loop.) Row
 * i of the left operand is at a + i * a_row, its next step a_step on. `next` is where the output tile
 * lies that comes next; it is fetched at the beginning. */
LNP_INLINE void lnp_tile_run(lensnet_isa isa, int rows, int vectors, size_t a_row, size_t a_step,
                             const float *next, LNP_TILE_PARAMETERS)
{
    const size_t lanes = lnp_lanes_of(isa), width = lanes * (size_t)vectors;
    lnp_vector sum[LNP_TILE_ROWS_MAX][LNP_TILE_VECTORS_MAX], column[LNP_TILE_VECTORS_MAX];
    const float *from = start ? start : c;
    const size_t from_stride = start ? 0 : c_stride;
    int i, j;
    LNP_UNROLL
    for (i = 0; i < rows; i++, next += c_stride) {
        LNP_FETCH(next);
        if (width > 16) LNP_FETCH(next + 16);
    }
    LNP_UNROLL
    for (i = 0; i < rows; i++, from += from_stride) LNP_UNROLL
    for (j = 0; j < vectors; j++) sum[i][j] = lnp_load(isa, from + lanes * (size_t)j);
    for (; steps; steps--) {
        LNP_UNROLL
        for (j = 0; j < vectors; j++) column[j] = lnp_load(isa, b + lanes * (size_t)j);
        LNP_UNROLL
        for (i = 0; i < rows; i++) {
            const lnp_vector factor = lnp_splat(isa, a + (size_t)i * a_row);
            LNP_UNROLL
            for (j = 0; j < vectors; j++) lnp_multiply_add_stay(isa, &sum[i][j], factor, column[j]);
            if (vectors == 4) LNP_IN_ORDER();
        }
        lnp_keep(isa, column[0]);
        LNP_FETCH(ahead);
        ahead += 16;
        a += a_step;
        b += width;
    }
    LNP_FORGET(c);
    LNP_UNROLL
    for (i = 0; i < rows; i++, c += c_stride) LNP_UNROLL
    for (j = 0; j < vectors; j++) lnp_store(isa, c + lanes * (size_t)j, sum[i][j]);
}

/* The tiles of one height: for products, and for the weights' gradient with its own step. */
#define LNP_TILE(name, TARGET, isa, rows, vectors, gradient_step)                                  \
    TARGET static void lnp_product_##rows##x##vectors##_##name(LNP_TILE_PARAMETERS)                \
    {                                                                                              \
        lnp_tile_run(isa, rows, vectors, LNP_ROW_PITCH, 1, c + rows * c_stride, a, b, steps,       \
                     start, c, c_stride, ahead);                                                   \
    }                                                                                              \
    TARGET static void lnp_gradient_##rows##x##vectors##_##name(LNP_TILE_PARAMETERS)               \
    {                                                                                              \
        lnp_tile_run(isa, rows, vectors, 1, gradient_step, c + vectors * lnp_lanes_of(isa), a, b,  \
                     steps, start, c, c_stride, ahead);                                            \
    }

/* The heights of a set, once to define their tiles and once to list them. */
/* clang-format off */
#define LNP_HEIGHTS_2(TILE, vectors) TILE(1, vectors) TILE(2, vectors)
#define LNP_HEIGHTS_6(TILE, vectors)                                                               \
    LNP_HEIGHTS_2(TILE, vectors) TILE(3, vectors) TILE(4, vectors) TILE(5, vectors) TILE(6, vectors)
#define LNP_HEIGHTS_14(TILE, vectors)                                                              \
    LNP_HEIGHTS_6(TILE, vectors) TILE(7, vectors) TILE(8, vectors) TILE(9, vectors)                \
    TILE(10, vectors) TILE(11, vectors) TILE(12, vectors) TILE(13, vectors) TILE(14, vectors)
/* clang-format on */
#endif

#if LNP_VECTORS && !LNP_NEON
/* ---- SSE2 and others: 2 x 16, the multiply-add by emulation but where the baseline has it -------- */

#define LNP_TILE_PORTABLE(rows, vectors)                                                           \
    LNP_TILE(portable, LNP_UNUSED, LENSNET_ISA_PORTABLE, rows, vectors, 4)
#define LNP_PRODUCT_PORTABLE(rows, vectors)  lnp_product_##rows##x##vectors##_portable,
#define LNP_GRADIENT_PORTABLE(rows, vectors) lnp_gradient_##rows##x##vectors##_portable,
LNP_HEIGHTS_2(LNP_TILE_PORTABLE, 2)
LNP_HEIGHTS_2(LNP_TILE_PORTABLE, 4)

static const lnp_gemm_kernels lnp_gemm_portable = {
    LENSNET_ISA_PORTABLE,
    2,
    8,
    16,
    4,
    {{LNP_HEIGHTS_2(LNP_PRODUCT_PORTABLE, 2)}, {LNP_HEIGHTS_2(LNP_PRODUCT_PORTABLE, 4)}},
    {{LNP_HEIGHTS_2(LNP_GRADIENT_PORTABLE, 2)}, {LNP_HEIGHTS_2(LNP_GRADIENT_PORTABLE, 4)}},
    lnp_copy_block_portable,
    lnp_copy_block_portable,
    lnp_deal_portable,
    lnp_pack_panel_portable,
    NULL};
#endif

#if LNP_X86
/* ---- AVX2 + FMA: 6 x 16, 12 accumulators, 2 columns, 2 for the broadcast --------------------- */

#define LNP_TILE_AVX2(rows, vectors)                                                               \
    LNP_TILE(avx2, LNP_TARGET_AVX2, LENSNET_ISA_AVX2, rows, vectors, 8)
#define LNP_PRODUCT_AVX2(rows, vectors)  lnp_product_##rows##x##vectors##_avx2,
#define LNP_GRADIENT_AVX2(rows, vectors) lnp_gradient_##rows##x##vectors##_avx2,
LNP_HEIGHTS_6(LNP_TILE_AVX2, 1)
LNP_HEIGHTS_6(LNP_TILE_AVX2, 2)

LNP_TARGET_AVX2 static void lnp_copy_block_avx2(float *packed, size_t width, const float *source,
                                                size_t stride, size_t rows, size_t count)
{
    const __m256i low = lnp_first_lanes_avx2(count);
    const __m256i high = lnp_first_lanes_avx2(count > 8 ? count - 8 : 0);
    for (; rows; rows--, packed += width, source += stride) {
        _mm256_store_ps(packed, _mm256_maskload_ps(source, low));
        if (width > 8) _mm256_store_ps(packed + 8, _mm256_maskload_ps(source + 8, high));
    }
}

LNP_TARGET_AVX2 static void lnp_pack_rows_avx2(float *packed, size_t width, const float *source,
                                               size_t stride, size_t rows, size_t count)
{
    const __m256i low = lnp_first_lanes_avx2(count);
    const __m256i high = lnp_first_lanes_avx2(count > 8 ? count - 8 : 0);
    for (; rows; rows--, packed += width, source += stride) {
        LNP_FETCH(source + LNP_PACK_AHEAD * stride);
        _mm256_stream_ps(packed, _mm256_maskload_ps(source, low));
        if (width > 8) _mm256_stream_ps(packed + 8, _mm256_maskload_ps(source + 8, high));
    }
    _mm_sfence();
}

LNP_TARGET_AVX2 static void lnp_deal_avx2(float *dealt, size_t pitch, size_t width,
                                          const float *source, size_t stride, size_t rows,
                                          size_t pieces, size_t count, size_t longer)
{
    size_t p, i, floats;
    for (p = 0; p < pieces; p++, source += floats, dealt += pitch) {
        floats = count + (p < longer);
        lnp_copy_block_avx2(dealt, width, source, stride, rows, floats);
        for (i = rows; i < 2 * rows; i++) /* the same of the rows that come next */
            LNP_FETCH(source + i * stride);
    }
}

/* Four rows become four columns within every 128-bit lane. */
LNP_TARGET_AVX2 LNP_INLINE void lnp_turn_four_avx2(__m256 *r)
{
    const __m256 top = _mm256_unpacklo_ps(r[0], r[1]), low_top = _mm256_unpackhi_ps(r[0], r[1]);
    const __m256 end = _mm256_unpacklo_ps(r[2], r[3]), low_end = _mm256_unpackhi_ps(r[2], r[3]);
    r[0] = _mm256_shuffle_ps(top, end, 0x44);
    r[1] = _mm256_shuffle_ps(top, end, 0xee);
    r[2] = _mm256_shuffle_ps(low_top, low_end, 0x44);
    r[3] = _mm256_shuffle_ps(low_top, low_end, 0xee);
}

LNP_TARGET_AVX2 static void lnp_transpose_avx2(float *packed, size_t width, const float *w,
                                               size_t stride)
{
    __m256 r[8];
    size_t i;
    LNP_UNROLL
    for (i = 0; i < 8; i++) {
        r[i] = _mm256_loadu_ps(w + i * stride);
        LNP_FETCH(w + i * stride + 2 * 16);
    }
    lnp_turn_four_avx2(r);
    lnp_turn_four_avx2(r + 4);
    LNP_UNROLL
    for (i = 0; i < 4; i++) {
        _mm256_stream_ps(packed + i * width, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_stream_ps(packed + (i + 4) * width, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

LNP_TARGET_AVX2 static void lnp_pack_panel_avx2(float *packed, size_t width, const float *w,
                                                size_t stride, size_t count, size_t k)
{
    size_t step = 0, column;
    if (count == width)
        for (; step + 8 <= k; step += 8)
            for (column = 0; column < width; column += 8)
                lnp_transpose_avx2(packed + step * width + column, width,
                                   w + column * stride + step, stride);
    _mm_sfence();
    lnp_pack_panel_portable(packed + step * width, width, w + step, stride, count, k - step);
}

static const lnp_gemm_kernels lnp_gemm_avx2 = {
    LENSNET_ISA_AVX2,
    6,
    8,
    16,
    8,
    {{LNP_HEIGHTS_6(LNP_PRODUCT_AVX2, 1)}, {LNP_HEIGHTS_6(LNP_PRODUCT_AVX2, 2)}},
    {{LNP_HEIGHTS_6(LNP_GRADIENT_AVX2, 1)}, {LNP_HEIGHTS_6(LNP_GRADIENT_AVX2, 2)}},
    lnp_copy_block_avx2,
    lnp_pack_rows_avx2,
    lnp_deal_avx2,
    lnp_pack_panel_avx2,
    NULL};
#endif

#if LNP_AVX512
/* ---- AVX-512: 14 x 32, 28 accumulators, 2 columns, 2 for the broadcast ----------------------- */

#define LNP_TILE_AVX512(rows, vectors)                                                             \
    LNP_TILE(avx512, LNP_TARGET_AVX512, LENSNET_ISA_AVX512, rows, vectors, 16)
#define LNP_PRODUCT_AVX512(rows, vectors)  lnp_product_##rows##x##vectors##_avx512,
#define LNP_GRADIENT_AVX512(rows, vectors) lnp_gradient_##rows##x##vectors##_avx512,
LNP_HEIGHTS_14(LNP_TILE_AVX512, 1)
LNP_HEIGHTS_14(LNP_TILE_AVX512, 2)

LNP_TARGET_AVX512 static __mmask16 lnp_first_lanes_avx512(size_t count)
{
    return (__mmask16)((1u << lnp_min(count, 16)) - 1u);
}

LNP_TARGET_AVX512 static void lnp_copy_block_avx512(float *packed, size_t width,
                                                    const float *source, size_t stride, size_t rows,
                                                    size_t count)
{
    const __mmask16 low = lnp_first_lanes_avx512(count);
    const __mmask16 high = lnp_first_lanes_avx512(count > 16 ? count - 16 : 0);
    for (; rows; rows--, packed += width, source += stride) {
        _mm512_store_ps(packed, _mm512_maskz_loadu_ps(low, source));
        if (width > 16) _mm512_store_ps(packed + 16, _mm512_maskz_loadu_ps(high, source + 16));
    }
}

LNP_TARGET_AVX512 static void lnp_pack_rows_avx512(float *packed, size_t width, const float *source,
                                                   size_t stride, size_t rows, size_t count)
{
    const __mmask16 low = lnp_first_lanes_avx512(count);
    const __mmask16 high = lnp_first_lanes_avx512(count > 16 ? count - 16 : 0);
    for (; rows; rows--, packed += width, source += stride) {
        LNP_FETCH(source + LNP_PACK_AHEAD * stride);
        LNP_FETCH(source + LNP_PACK_AHEAD * stride + 16);
        _mm512_stream_ps(packed, _mm512_maskz_loadu_ps(low, source));
        if (width > 16) _mm512_stream_ps(packed + 16, _mm512_maskz_loadu_ps(high, source + 16));
    }
    _mm_sfence();
}

LNP_TARGET_AVX512 static void lnp_deal_avx512(float *dealt, size_t pitch, size_t width,
                                              const float *source, size_t stride, size_t rows,
                                              size_t pieces, size_t count, size_t longer)
{
    size_t p, i, floats;
    for (p = 0; p < pieces; p++, source += floats, dealt += pitch) {
        floats = count + (p < longer);
        lnp_copy_block_avx512(dealt, width, source, stride, rows, floats);
        for (i = rows; i < 2 * rows; i++) { /* the same of the rows that come next */
            LNP_FETCH(source + i * stride);
            LNP_FETCH(source + i * stride + 16);
        }
    }
}

/* The forms with a mask that keeps all lanes become the plain instructions; gcc 12 wrongly warns of
 * an uninitialised value inside the plain forms. */
#define LNP_ALL_LANES ((__mmask16)0xffff)

/* Four rows become four columns within every 128-bit lane. */
LNP_TARGET_AVX512 LNP_INLINE void lnp_turn_four_avx512(__m512 *r)
{
    const __m512 top = _mm512_maskz_unpacklo_ps(LNP_ALL_LANES, r[0], r[1]);
    const __m512 low_top = _mm512_maskz_unpackhi_ps(LNP_ALL_LANES, r[0], r[1]);
    const __m512 end = _mm512_maskz_unpacklo_ps(LNP_ALL_LANES, r[2], r[3]);
    const __m512 low_end = _mm512_maskz_unpackhi_ps(LNP_ALL_LANES, r[2], r[3]);
    r[0] = _mm512_maskz_shuffle_ps(LNP_ALL_LANES, top, end, 0x44);
    r[1] = _mm512_maskz_shuffle_ps(LNP_ALL_LANES, top, end, 0xee);
    r[2] = _mm512_maskz_shuffle_ps(LNP_ALL_LANES, low_top, low_end, 0x44);
    r[3] = _mm512_maskz_shuffle_ps(LNP_ALL_LANES, low_top, low_end, 0xee);
}

/* The lanes of r[0], r[4], r[8] and r[12], four such groups, become four columns; `pitch` floats lie
 * between their places. */
LNP_TARGET_AVX512 LNP_INLINE void lnp_join_lanes_avx512(float *packed, size_t pitch,
                                                        const __m512 *r)
{
    const __m512 top = _mm512_maskz_shuffle_f32x4(LNP_ALL_LANES, r[0], r[4], 0x44);
    const __m512 low_top = _mm512_maskz_shuffle_f32x4(LNP_ALL_LANES, r[0], r[4], 0xee);
    const __m512 end = _mm512_maskz_shuffle_f32x4(LNP_ALL_LANES, r[8], r[12], 0x44);
    const __m512 low_end = _mm512_maskz_shuffle_f32x4(LNP_ALL_LANES, r[8], r[12], 0xee);
    const __m512 first = _mm512_maskz_shuffle_f32x4(LNP_ALL_LANES, top, end, 0x88);
    const __m512 second = _mm512_maskz_shuffle_f32x4(LNP_ALL_LANES, top, end, 0xdd);
    const __m512 third = _mm512_maskz_shuffle_f32x4(LNP_ALL_LANES, low_top, low_end, 0x88);
    const __m512 fourth = _mm512_maskz_shuffle_f32x4(LNP_ALL_LANES, low_top, low_end, 0xdd);
    _mm512_stream_ps(packed, first);
    _mm512_stream_ps(packed + pitch, second);
    _mm512_stream_ps(packed + 2 * pitch, third);
    _mm512_stream_ps(packed + 3 * pitch, fourth);
}

/* packed[step][row] = w[row][step] for 16 steps; rows from `count` on are zero. */
LNP_TARGET_AVX512 static void lnp_transpose_avx512(float *packed, size_t width, const float *w,
                                                   size_t stride, size_t count, size_t steps)
{
    const __mmask16 mask = lnp_first_lanes_avx512(steps);
    __m512 r[16];
    size_t i;
    LNP_UNROLL
    for (i = 0; i < 16; i++) {
        r[i] = i < count ? _mm512_maskz_loadu_ps(mask, w + i * stride) : _mm512_setzero_ps();
        if (i < count) LNP_FETCH(w + i * stride + 2 * 16);
    }
    LNP_UNROLL
    for (i = 0; i < 16; i += 4) lnp_turn_four_avx512(r + i);
    LNP_UNROLL
    for (i = 0; i < 4; i++) lnp_join_lanes_avx512(packed + i * width, 4 * width, r + i);
}

LNP_TARGET_AVX512 static void lnp_pack_panel_avx512(float *packed, size_t width, const float *w,
                                                    size_t stride, size_t count, size_t k)
{
    const size_t whole = k / 16 * 16;
    size_t step, column;
    for (step = 0; step < whole; step += 16)
        for (column = 0; column < width; column += 16)
            lnp_transpose_avx512(packed + step * width + column, width, w + column * stride + step,
                                 stride, count > column ? count - column : 0, 16);
    for (column = 0; column < width && whole < k; column += 16) {
        __m512 rest[16];
        lnp_transpose_avx512((float *)rest, 16, w + column * stride + whole, stride,
                             count > column ? count - column : 0, k - whole);
        for (step = whole; step < k; step++)
            _mm512_store_ps(packed + step * width + column, rest[step - whole]);
    }
    _mm_sfence();
}

static const lnp_gemm_kernels lnp_gemm_avx512 = {
    LENSNET_ISA_AVX512,
    14,
    16,
    32,
    16,
    {{LNP_HEIGHTS_14(LNP_PRODUCT_AVX512, 1)}, {LNP_HEIGHTS_14(LNP_PRODUCT_AVX512, 2)}},
    {{LNP_HEIGHTS_14(LNP_GRADIENT_AVX512, 1)}, {LNP_HEIGHTS_14(LNP_GRADIENT_AVX512, 2)}},
    lnp_copy_block_avx512,
    lnp_pack_rows_avx512,
    lnp_deal_avx512,
    lnp_pack_panel_avx512,
    NULL};
#endif

#if LNP_NEON
/* ---- NEON: 6 x 16, 24 accumulators, 4 for the columns, the rest for the broadcast ------------ */

#define LNP_TILE_NEON(rows, vectors)                                                               \
    LNP_TILE(neon, LNP_UNUSED, LENSNET_ISA_PORTABLE, rows, vectors, 8)
#define LNP_PRODUCT_NEON(rows, vectors)  lnp_product_##rows##x##vectors##_neon,
#define LNP_GRADIENT_NEON(rows, vectors) lnp_gradient_##rows##x##vectors##_neon,
LNP_HEIGHTS_6(LNP_TILE_NEON, 2)
LNP_HEIGHTS_6(LNP_TILE_NEON, 4)

static void lnp_transpose_neon(float *packed, size_t width, const float *w, size_t stride)
{
    const float32x4x2_t top = vtrnq_f32(vld1q_f32(w), vld1q_f32(w + stride));
    const float32x4x2_t end = vtrnq_f32(vld1q_f32(w + 2 * stride), vld1q_f32(w + 3 * stride));
    vst1q_f32(packed, vcombine_f32(vget_low_f32(top.val[0]), vget_low_f32(end.val[0])));
    vst1q_f32(packed + width, vcombine_f32(vget_low_f32(top.val[1]), vget_low_f32(end.val[1])));
    vst1q_f32(packed + 2 * width,
              vcombine_f32(vget_high_f32(top.val[0]), vget_high_f32(end.val[0])));
    vst1q_f32(packed + 3 * width,
              vcombine_f32(vget_high_f32(top.val[1]), vget_high_f32(end.val[1])));
}

static void lnp_pack_panel_neon(float *packed, size_t width, const float *w, size_t stride,
                                size_t count, size_t k)
{
    size_t step = 0, column;
    if (count == width)
        for (; step + 4 <= k; step += 4)
            for (column = 0; column < width; column += 4)
                lnp_transpose_neon(packed + step * width + column, width,
                                   w + column * stride + step, stride);
    lnp_pack_panel_portable(packed + step * width, width, w + step, stride, count, k - step);
}

static const lnp_gemm_kernels lnp_gemm_neon = {
    LENSNET_ISA_PORTABLE,
    6,
    8,
    16,
    8,
    {{LNP_HEIGHTS_6(LNP_PRODUCT_NEON, 2)}, {LNP_HEIGHTS_6(LNP_PRODUCT_NEON, 4)}},
    {{LNP_HEIGHTS_6(LNP_GRADIENT_NEON, 2)}, {LNP_HEIGHTS_6(LNP_GRADIENT_NEON, 4)}},
    lnp_copy_block_portable,
    lnp_copy_block_portable,
    lnp_deal_portable,
    lnp_pack_panel_neon,
    NULL};
#endif

/* The table of an instruction set that lnp_detect_isa has returned. */
static const lnp_gemm_kernels *lnp_gemm_kernels_for(lensnet_isa isa)
{
    if (isa == LENSNET_ISA_REFERENCE) return &lnp_gemm_reference;
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) return &lnp_gemm_avx512;
#endif
#if LNP_X86
    if (isa == LENSNET_ISA_AVX2) return &lnp_gemm_avx2;
#endif
#if LNP_NEON
    return &lnp_gemm_neon;
#elif LNP_VECTORS
    return &lnp_gemm_portable;
#else
    return &lnp_gemm_reference;
#endif
}
/* =================================================================================================
 * >>bfloat  Products in bfloat16: the same drivers, with operands rounded to 16 bits while packing.
 *
 * The law: a and b are rounded to bfloat16 (to nearest, ties to even; denormal numbers become zero; a
 * NaN stays one). The reduction goes in pairs (0, 1), (2, 3) ..., the last one filled up with zeros, and
 * in every pair the odd element comes first: c = fma(a[1], b[1], c), then c = fma(a[0], b[0], c), both
 * in float32 to nearest, with a denormal c taken for zero and a denormal result flushed to zero of its
 * sign (after rounding). Pairs of the weights' gradient lie within a sample, so that no split of a
 * batch can be seen. This is what VDPBF16PS computes (Intel's manual; checked against it here, NaN,
 * infinity and denormals included, by lnp_bfloat_probe wherever it is used). Elsewhere the tiles of
 * float32 do the same: their operands are packed rounded, the odd element before the even, and x86's
 * flush-to-zero mode stands around them.
 * ============================================================================================== */

/* x rounded to bfloat16, as a float. */
static float lnp_bfloat_round(float x)
{
    const uint32_t bits = lnp_float_bits(x), magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return lnp_bits_float((bits | 0x00400000u) & 0xffff0000u);
    if (magnitude < 0x00800000u) return lnp_bits_float(bits & 0x80000000u);
    return lnp_bits_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

static float lnp_flush_denormal(float x)
{
    const uint32_t bits = lnp_float_bits(x);
    return bits & 0x7f800000u ? x : lnp_bits_float(bits & 0x80000000u);
}

/* One step of the law. Where the sum was rounded up to the smallest normal number, it depends on what
 * it would have been with unbounded exponents: below 2^-126 - 2^-151 it is flushed. Everything there is
 * exact in double: the product has 16 bits, the addend no more than 49 above 2^-151. */
static float lnp_bfloat_fma(float a, float b, float c)
{
    const float smallest = 1.17549435e-38f, addend = lnp_flush_denormal(c);
    const float sum = lnp_fma(a, b, addend);
    const uint32_t magnitude = lnp_float_bits(sum) & 0x7fffffffu;
    const double sign = sum < 0.0f ? -1.0 : 1.0;
    const double limit = (double)smallest * (1.0 - 1.0 / 33554432.0); /* 1 - 2^-25 */
    if (magnitude > 0x00800000u) return sum;
    if (magnitude == 0x00800000u &&
        sign * (double)a * (double)b + (sign * (double)addend - limit) >= 0.0)
        return sum;
    return lnp_bits_float(lnp_float_bits(sum) & 0x80000000u);
}

/* ---- the twin: operands in float32, the odd element of a pair first ---------------------------- */

#if LNP_VECTORS
typedef uint64_t lnp_q8 __attribute__((vector_size(64), aligned(4), may_alias));

/* lnp_bfloat_round of 16 lanes, by integers alone. */
LNP_INLINE lnp_v16 lnp_round_16(lnp_v16 v)
{
    const lnp_u16 bits = (lnp_u16)v, magnitude = bits & 0x7fffffffu;
    const lnp_u16 rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    const lnp_u16 nan = lnp_top(0x7f800000u - magnitude), zero = lnp_top(magnitude - 0x00800000u);
    const lnp_u16 number = (rounded & ~nan) | ((bits | 0x00400000u) & nan);
    return (lnp_v16)(number & ~(zero & 0x7fffffffu) & 0xffff0000u);
}

LNP_INLINE lnp_v16 lnp_swap_pairs(lnp_v16 v)
{
    const lnp_q8 pairs = (lnp_q8)v;
    return (lnp_v16)(pairs >> 32 | pairs << 32);
}

/* rows of both: packed[0] = second rounded, packed[width] = first rounded, zero beyond count. `second`
 * NULL: zeros. packed may be where first and second lie. */
LNP_INLINE void lnp_twin_pair(lensnet_isa isa, float *packed, size_t width, const float *first,
                              const float *second, size_t count)
{
    const lnp_v16 zero = {0.0f};
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const lnp_v16 even = lnp_load_16(first + i), odd = second ? lnp_load_16(second + i) : zero;
        lnp_store_16(isa, packed + i, lnp_round_16(odd));
        lnp_store_16(isa, packed + width + i, lnp_round_16(even));
    }
    if (i < width) {
        float even[16] = {0.0f}, odd[16] = {0.0f};
        size_t l;
        for (l = 0; l < count - i; l++) even[l] = first[i + l];
        for (l = 0; second && l < count - i; l++) odd[l] = second[i + l];
        lnp_store_16(isa, odd, lnp_round_16(lnp_load_16(odd)));
        lnp_store_16(isa, even, lnp_round_16(lnp_load_16(even)));
        memcpy(packed + i, odd, (width - i) * sizeof(float));
        memcpy(packed + width + i, even, (width - i) * sizeof(float));
    }
}

LNP_INLINE void lnp_twin_narrow(lensnet_isa isa, float *packed, const float *row, size_t count)
{
    size_t i = 0;
    for (; i + 16 <= count; i += 16)
        lnp_store_16(isa, packed + i, lnp_swap_pairs(lnp_round_16(lnp_load_16(row + i))));
    for (; i < count; i += 2) {
        packed[i] = i + 1 < count ? lnp_bfloat_round(row[i + 1]) : 0.0f;
        packed[i + 1] = lnp_bfloat_round(row[i]);
    }
}
#else
/* One value at a time; the instruction set has no say. */
static void lnp_twin_pair(lensnet_isa isa, float *packed, size_t width, const float *first,
                          const float *second, size_t count)
{
    size_t i;
    (void)isa;
    for (i = 0; i < width; i++) {
        const float even = i < count ? first[i] : 0.0f;
        packed[i] = second && i < count ? lnp_bfloat_round(second[i]) : 0.0f;
        packed[width + i] = lnp_bfloat_round(even);
    }
}

static void lnp_twin_narrow(lensnet_isa isa, float *packed, const float *row, size_t count)
{
    size_t i;
    (void)isa;
    for (i = 0; i < count; i += 2) {
        const float even = row[i];
        packed[i] = i + 1 < count ? lnp_bfloat_round(row[i + 1]) : 0.0f;
        packed[i + 1] = lnp_bfloat_round(even);
    }
}
#endif

/* How operands in bfloat16 are packed. A step of the tiles is one element of the reduction, or both of
 * a pair where two bfloat16 stand in the 32 bits of a float. */
typedef struct lnp_bfloat_kernels {
    size_t elements; /* in a step: 1 or 2 */
    int flush;       /* the tiles are float32's and want flush-to-zero around them */
    /* A row of the left operand: lnp_round_up(count, 2) / elements steps. */
    void (*narrow)(float *packed, const float *row, size_t count);
    /* Two rows of the reduction (second may be NULL: zeros) cut into pieces as by lnp_deal. */
    void (*deal_pair)(float *dealt, size_t pitch, size_t width, const float *first,
                      const float *second, size_t pieces, size_t count, size_t longer);
    /* Rounds `rows` packed rows of weights in place, and brings them into the order of pairs; an odd
     * last row becomes two. NULL: packing has done it. */
    void (*settle)(float *packed, size_t width, size_t rows);
} lnp_bfloat_kernels;

#define LNP_TWIN_NARROW(isa, TARGET, set)                                                          \
    TARGET static void lnp_narrow_##isa(float *packed, const float *row, size_t count)             \
    {                                                                                              \
        lnp_twin_narrow(set, packed, row, count);                                                  \
    }
#define LNP_TWIN_SETTLE(isa, TARGET, set)                                                          \
    TARGET static void lnp_settle_##isa(float *packed, size_t width, size_t rows)                  \
    {                                                                                              \
        size_t i;                                                                                  \
        for (i = 0; i < rows; i += 2, packed += 2 * width)                                         \
            lnp_twin_pair(set, packed, width, packed, i + 1 < rows ? packed + width : NULL,        \
                          width);                                                                  \
    }
#define LNP_TWIN_DEAL(isa, TARGET, set)                                                            \
    TARGET static void lnp_deal_pair_##isa(float *dealt, size_t pitch, size_t width,               \
                                           const float *first, const float *second, size_t pieces, \
                                           size_t count, size_t longer)                            \
    {                                                                                              \
        size_t p, at = 0, floats;                                                                  \
        for (p = 0; p < pieces; p++, at += floats, dealt += pitch) {                               \
            floats = count + (p < longer);                                                         \
            lnp_twin_pair(set, dealt, width, first + at, second ? second + at : NULL, floats);     \
        }                                                                                          \
    }
#define LNP_TWIN_KERNELS(isa, TARGET, set, flushes)                                                \
    LNP_TWIN_NARROW(isa, TARGET, set)                                                              \
    LNP_TWIN_SETTLE(isa, TARGET, set)                                                              \
    LNP_TWIN_DEAL(isa, TARGET, set)                                                                \
    static const lnp_bfloat_kernels lnp_bfloat_##isa = {1, flushes, lnp_narrow_##isa,              \
                                                        lnp_deal_pair_##isa, lnp_settle_##isa};

LNP_TWIN_KERNELS(portable, LNP_UNUSED, LENSNET_ISA_PORTABLE, LNP_X86)
#if LNP_X86
LNP_TWIN_KERNELS(avx2, LNP_TARGET_AVX2, LENSNET_ISA_AVX2, 1)
#endif
#if LNP_AVX512
LNP_TWIN_KERNELS(avx512, LNP_TARGET_AVX512, LENSNET_ISA_AVX512, 1)
#endif
#undef LNP_TWIN_NARROW
#undef LNP_TWIN_SETTLE
#undef LNP_TWIN_DEAL
#undef LNP_TWIN_KERNELS

#if !LNP_X86
/* A tile where there is no mode that flushes as x86 does. */
LNP_INLINE void lnp_tile_twin(LNP_TILE_PARAMETERS, size_t rows, size_t width, size_t row_step,
                              size_t k_step)
{
    size_t i, j, k;
    (void)ahead;
    for (i = 0; i < rows; i++)
        for (j = 0; j < width; j++) {
            float sum = start ? start[j] : c[i * c_stride + j];
            for (k = 0; k < steps; k++)
                sum = lnp_bfloat_fma(a[i * row_step + k * k_step], b[k * width + j], sum);
            c[i * c_stride + j] = sum;
        }
}
#endif

/* ---- the wide layer in 16 bits ------------------------------------------------------------------- */

/* In a graph of bf16 the hidden layer of a block, gelu of it and its slope are rounded to bfloat16, here
 * and by the plain operator, so that both give the same bits and what backward reads takes half the room.
 *
 * With t = |h|, gelu(h) = max(h, 0) - t Phi(-t). Phi(-t) = 2^w, w = -1 + t P(t), P of degree 6 (minimax,
 * 2^-10.8 in relative error of the power up to LNP_HALF_END), and the power of two as in >>rows, with a
 * polynomial of degree 3 (2^-13.3). gelu'(-t) = Phi(-t) - t phi(t) = Phi(-t) S(t), S of degree 4 (2^-14
 * of 1). Before they are rounded gelu is right to 2^-10 of itself, and its slope to 2^-10 of 1, checked
 * by tests/test_rows.c. No division, and a fused multiply-add wherever one can stand. The constants stand
 * 16 times, to be read as vectors: gcc fills a vector lane by lane, inside the loop, where it is made of
 * an element of a table. */
#define LNP_HALF_END 12.896632f /* w = -125: the power is 0 from here on */
#define LNP_ALL(s)                                                                                 \
    {                                                                                              \
        s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s                                             \
    }
static const float lnp_half_power[7][16] = {LNP_ALL(-1.14589655f),     LNP_ALL(-0.469909579f),
                                            LNP_ALL(-0.0457298756f),   LNP_ALL(0.00574460393f),
                                            LNP_ALL(-0.000451583561f), LNP_ALL(1.97243407e-5f),
                                            LNP_ALL(-3.62900465e-7f)};
static const float lnp_half_slope[4][16] = {LNP_ALL(-0.796388276f), LNP_ALL(-0.64536206f),
                                            LNP_ALL(-0.094683208f), LNP_ALL(0.0114876602f)};
static const float lnp_half_exp[4][16] = {LNP_ALL(4.0f), LNP_ALL(2.77313203f),
                                          LNP_ALL(0.968844240f), LNP_ALL(0.220033163f)};
static const float lnp_half_end[16] = LNP_ALL(LNP_HALF_END), lnp_half_one[16] = LNP_ALL(1.0f);

/* gelu of h and its slope, neither rounded. */
static float lnp_half_gelu_ref(float h, float *slope)
{
    const uint32_t bits = lnp_float_bits(h), magnitude = bits & 0x7fffffffu;
    const uint32_t end = lnp_float_bits(LNP_HALF_END);
    const float t =
        magnitude >= end && magnitude <= 0x7f800000u ? LNP_HALF_END : lnp_bits_float(magnitude);
    float w = lnp_half_power[6][0], power, shifted, f, s = lnp_half_slope[3][0];
    int i;
    for (i = 5; i >= 0; i--) w = lnp_fma(w, t, lnp_half_power[i][0]);
    w = lnp_fma(w, t, -1.0f);
    shifted = w + LNP_GAUSS_MAGIC;
    f = w - (shifted - LNP_GAUSS_MAGIC);
    power = lnp_fma(lnp_half_exp[3][0], f, lnp_half_exp[2][0]);
    power = lnp_fma(lnp_fma(power, f, lnp_half_exp[1][0]), f, lnp_half_exp[0][0]);
    power = power * lnp_bits_float(lnp_float_bits(shifted) << 23);
    for (i = 2; i >= 0; i--) s = lnp_fma(s, t, lnp_half_slope[i][0]);
    s = power * lnp_fma(s, t, 1.0f);
    *slope = bits >> 31 ? s : 1.0f - s;
    return lnp_fma(0.0f - t, power, bits >> 31 ? 0.0f : h);
}

#if LNP_VECTORS
typedef uint16_t lnp_h16 __attribute__((vector_size(32), aligned(2), may_alias));

#if LNP_AVX512
LNP_TARGET_AVX512 static inline void lnp_widen_avx512(lnp_v16 *v, const lnp_h16 *half)
{
    *v = (lnp_v16)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)*half), 16);
}
#endif

#if LNP_BFLOAT
LNP_TARGET_BFLOAT static inline void lnp_round_native(lnp_h16 *half, const lnp_v16 *v)
{
    *half = (lnp_h16)_mm512_cvtneps_pbh((__m512)*v);
}
#endif

/* a * b + c, rounded once */
LNP_INLINE lnp_v16 lnp_v_fma(lensnet_isa isa, lnp_v16 a, lnp_v16 b, lnp_v16 c)
{
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) {
        lnp_fma_avx512(&c, &a, &b);
        return c;
    }
#endif
#if LNP_X86
    if (isa == LENSNET_ISA_AVX2) {
        const lnp_v8 *const left = (const lnp_v8 *)&a, *const right = (const lnp_v8 *)&b;
        lnp_fma_avx2((lnp_v8 *)&c, left, right);
        lnp_fma_avx2((lnp_v8 *)&c + 1, left + 1, right + 1);
        return c;
    }
#endif
    {
        const lnp_v4 *const left = (const lnp_v4 *)&a, *const right = (const lnp_v4 *)&b;
        lnp_v4 *const sums = (lnp_v4 *)&c;
        int i;
        (void)isa;
        for (i = 0; i < 4; i++) sums[i] = lnp_fma_four(left[i], right[i], sums[i]);
        return c;
    }
}

LNP_INLINE lnp_v16 lnp_v_linear(lensnet_isa isa, lnp_v16 a, lnp_v16 x, const float *constant)
{
    return lnp_v_fma(isa, a, x, lnp_load_16(constant));
}

/* Rounded to bfloat16, as 16 bits and as floats again. */
LNP_INLINE lnp_h16 lnp_half_round(lensnet_isa isa, lnp_v16 v)
{
#if LNP_BFLOAT
    if (isa == LENSNET_ISA_AVX512_BF16) {
        lnp_h16 half;
        lnp_round_native(&half, &v);
        return half;
    }
#endif
    (void)isa;
    return __builtin_convertvector((lnp_u16)lnp_round_16(v) >> 16, lnp_h16);
}

LNP_INLINE lnp_v16 lnp_half_widen(lensnet_isa isa, lnp_h16 half)
{
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) {
        lnp_v16 v;
        lnp_widen_avx512(&v, &half);
        return v;
    }
#endif
    (void)isa;
    return (lnp_v16)(__builtin_convertvector(half, lnp_u16) << 16);
}

/* Of n lanes in memory; 16 is a case of its own, known when a kernel is compiled. */
LNP_INLINE lnp_v16 lnp_half_load(lensnet_isa isa, const uint16_t *x, size_t n)
{
    uint16_t copy[16] = {0};
    if (n == 16) return lnp_half_widen(isa, *(const lnp_h16 *)x);
    memcpy(copy, x, n * sizeof *x);
    return lnp_half_widen(isa, *(const lnp_h16 *)copy);
}

LNP_INLINE void lnp_half_store(uint16_t *y, lnp_h16 half, size_t n)
{
    if (n == 16)
        *(lnp_h16 *)y = half;
    else
        memcpy(y, &half, n * sizeof *y);
}

LNP_INLINE lnp_v16 lnp_whole_load(const float *x, size_t n)
{
    float copy[16] = {0.0f};
    if (n == 16) return lnp_load_16(x);
    memcpy(copy, x, n * sizeof *x);
    return lnp_load_16(copy);
}

LNP_INLINE void lnp_whole_store(lensnet_isa isa, float *y, lnp_v16 v, size_t n)
{
    if (n == 16)
        lnp_store_16(isa, y, v);
    else
        memcpy(y, &v, n * sizeof *y);
}

/* lnp_half_gelu_ref of 16; `slope` may be NULL. */
LNP_INLINE lnp_v16 lnp_half_gelu(lensnet_isa isa, lnp_v16 h, lnp_v16 *slope)
{
    const lnp_v16 one = lnp_load_16(lnp_half_one);
    const lnp_u16 bits = (lnp_u16)(h), magnitude = bits & 0x7fffffffu;
    const lnp_u16 end = (lnp_u16)(lnp_load_16(lnp_half_end)), over = magnitude - end;
    const lnp_u16 keep = lnp_top(over | (0x7f800000u - magnitude));
    const lnp_u16 negative = lnp_top(bits);
    const lnp_v16 t = (lnp_v16)((over & keep) + end);
    lnp_v16 w = lnp_load_16(lnp_half_power[6]), power, shifted, f;
    LNP_UNROLL
    for (int i = 5; i >= 0; i--) w = lnp_v_linear(isa, w, t, lnp_half_power[i]);
    w = lnp_v_fma(isa, w, t, -one);
    shifted = w + LNP_GAUSS_MAGIC;
    f = w - (shifted - LNP_GAUSS_MAGIC);
    power = lnp_load_16(lnp_half_exp[3]);
    LNP_UNROLL
    for (int i = 2; i >= 0; i--) power = lnp_v_linear(isa, power, f, lnp_half_exp[i]);
    power = power * (lnp_v16)((lnp_u16)(shifted) << 23);
    if (slope) {
        lnp_v16 s = lnp_load_16(lnp_half_slope[3]);
        LNP_UNROLL
        for (int i = 2; i >= 0; i--) s = lnp_v_linear(isa, s, t, lnp_half_slope[i]);
        s = power * lnp_v_fma(isa, s, t, one);
        *slope = (lnp_v16)(((lnp_u16)(s)&negative) | ((lnp_u16)(one - s) & ~negative));
    }
    return lnp_v_fma(isa, -t, power, (lnp_v16)(bits & ~negative));
}
#endif

typedef struct lnp_half_kernels {
    /* a = gelu(h), kept = h (NULL: not wanted), sums[c] += a * a row by row */
    void (*gelu_squares)(uint16_t *a, uint16_t *kept, size_t stride, const float *h,
                         size_t h_stride, float *sums, size_t rows, size_t columns);
    /* a = gelu(h), h becomes the slope; products[c] += da a, dbeta[c] += da */
    void (*grn_first)(uint16_t *a, uint16_t *h, float *products, float *dbeta, const float *da,
                      size_t stride, size_t rows, size_t columns);
    /* da becomes dh = (da factor[c] + coef[c] a) slope; db[c] += dh */
    void (*grn_second)(float *da, float *db, const uint16_t *a, const uint16_t *slope,
                       const float *factor, const float *coef, size_t stride, size_t rows,
                       size_t columns);
    /* y = x factor[c] + shift[c] */
    void (*scale_shift)(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                        const float *factor, const float *shift, size_t rows, size_t columns);
    /* the same, and (x - mean) rstd w[c] + b[c] of rows, rounded */
    void (*respond)(uint16_t *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                    const float *factor, const float *shift, size_t rows, size_t columns);
    void (*normalize)(uint16_t *y, size_t y_stride, const float *x, size_t x_stride,
                      const float *mean, const float *rstd, const float *w, const float *b,
                      size_t rows, size_t columns);
    /* the plain operator: y = gelu(x), dx = dy gelu'(x) */
    void (*gelu)(float *y, const float *x, size_t n);
    void (*gelu_backward)(float *dx, const float *dy, const float *x, size_t n);
} lnp_half_kernels;

static float lnp_half_number(uint16_t half) { return lnp_bits_float((uint32_t)half << 16); }
static uint16_t lnp_half_of(float x)
{
    return (uint16_t)(lnp_float_bits(lnp_bfloat_round(x)) >> 16);
}

static void lnp_half_gelu_squares_ref(uint16_t *a, uint16_t *kept, size_t stride, const float *h,
                                      size_t h_stride, float *sums, size_t rows, size_t columns)
{
    size_t r, c;
    float slope, value;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++) {
            const uint16_t half = lnp_half_of(h[r * h_stride + c]);
            if (kept) kept[r * stride + c] = half;
            a[r * stride + c] = lnp_half_of(lnp_half_gelu_ref(lnp_half_number(half), &slope));
            value = lnp_half_number(a[r * stride + c]);
            sums[c] += value * value;
        }
}

static void lnp_half_grn_first_ref(uint16_t *a, uint16_t *h, float *products, float *dbeta,
                                   const float *da, size_t stride, size_t rows, size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++) {
            const size_t at = r * stride + c;
            float slope;
            a[at] = lnp_half_of(lnp_half_gelu_ref(lnp_half_number(h[at]), &slope));
            h[at] = lnp_half_of(slope);
            products[c] += da[at] * lnp_half_number(a[at]);
            dbeta[c] += da[at];
        }
}

static void lnp_half_grn_second_ref(float *da, float *db, const uint16_t *a, const uint16_t *slope,
                                    const float *factor, const float *coef, size_t stride,
                                    size_t rows, size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++) {
            const size_t at = r * stride + c;
            const float grn = da[at] * factor[c] + coef[c] * lnp_half_number(a[at]);
            da[at] = grn * lnp_half_number(slope[at]);
            db[c] += da[at];
        }
}

static void lnp_half_scale_shift_ref(float *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                                     const float *factor, const float *shift, size_t rows,
                                     size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++)
            y[r * y_stride + c] = lnp_half_number(x[r * x_stride + c]) * factor[c] + shift[c];
}

static void lnp_half_respond_ref(uint16_t *y, size_t y_stride, const uint16_t *x, size_t x_stride,
                                 const float *factor, const float *shift, size_t rows,
                                 size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++)
            y[r * y_stride + c] =
                lnp_half_of(lnp_half_number(x[r * x_stride + c]) * factor[c] + shift[c]);
}

static void lnp_half_normalize_ref(uint16_t *y, size_t y_stride, const float *x, size_t x_stride,
                                   const float *mean, const float *rstd, const float *w,
                                   const float *b, size_t rows, size_t columns)
{
    size_t r, c;
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++)
            y[r * y_stride + c] =
                lnp_half_of((x[r * x_stride + c] - mean[r]) * rstd[r] * w[c] + b[c]);
}

static void lnp_half_gelu_rows_ref(float *y, const float *x, size_t n)
{
    float slope;
    size_t i;
    for (i = 0; i < n; i++)
        y[i] = lnp_bfloat_round(lnp_half_gelu_ref(lnp_bfloat_round(x[i]), &slope));
}

static void lnp_half_gelu_backward_ref(float *dx, const float *dy, const float *x, size_t n)
{
    float slope;
    size_t i;
    for (i = 0; i < n; i++) {
        lnp_half_gelu_ref(lnp_bfloat_round(x[i]), &slope);
        dx[i] = dy[i] * lnp_bfloat_round(slope);
    }
}

#if LNP_VECTORS
/* One strip of up to 16 columns, n of them, down the rows; and so below. */
LNP_INLINE void lnp_half_gelu_squares_strip(lensnet_isa isa, uint16_t *a, uint16_t *kept,
                                            size_t stride, const float *h, size_t h_stride,
                                            float *sums, size_t rows, size_t n)
{
    lnp_v16 sum = lnp_whole_load(sums, n);
    for (; rows; rows--, a += stride, h += h_stride) {
        const lnp_h16 half = lnp_half_round(isa, lnp_whole_load(h, n));
        const lnp_v16 gelu = lnp_half_gelu(isa, lnp_half_widen(isa, half), NULL);
        const lnp_h16 active = lnp_half_round(isa, gelu);
        const lnp_v16 value = lnp_half_widen(isa, active);
        lnp_half_store(a, active, n);
        sum += value * value;
        if (!kept) continue;
        lnp_half_store(kept, half, n);
        kept += stride;
    }
    lnp_whole_store(isa, sums, sum, n);
}

LNP_INLINE void lnp_half_gelu_squares_body(lensnet_isa isa, uint16_t *a, uint16_t *kept,
                                           size_t stride, const float *h, size_t h_stride,
                                           float *sums, size_t rows, size_t columns)
{
    size_t c = 0;
    for (; c + 16 <= columns; c += 16)
        lnp_half_gelu_squares_strip(isa, a + c, kept ? kept + c : NULL, stride, h + c, h_stride,
                                    sums + c, rows, 16);
    if (c < columns)
        lnp_half_gelu_squares_ref(a + c, kept ? kept + c : NULL, stride, h + c, h_stride, sums + c,
                                  rows, columns - c);
}

LNP_INLINE void lnp_half_grn_first_strip(lensnet_isa isa, uint16_t *a, uint16_t *h, float *products,
                                         float *dbeta, const float *da, size_t stride, size_t rows)
{
    lnp_v16 product = lnp_load_16(products), sum = lnp_load_16(dbeta);
    for (; rows; rows--, a += stride, h += stride, da += stride) {
        const lnp_v16 d = lnp_load_16(da);
        lnp_v16 slope;
        const lnp_v16 gelu = lnp_half_gelu(isa, lnp_half_load(isa, h, 16), &slope);
        const lnp_h16 active = lnp_half_round(isa, gelu);
        lnp_half_store(a, active, 16);
        lnp_half_store(h, lnp_half_round(isa, slope), 16);
        product += d * lnp_half_widen(isa, active);
        sum += d;
    }
    lnp_whole_store(isa, products, product, 16);
    lnp_whole_store(isa, dbeta, sum, 16);
}

LNP_INLINE void lnp_half_grn_first_body(lensnet_isa isa, uint16_t *a, uint16_t *h, float *products,
                                        float *dbeta, const float *da, size_t stride, size_t rows,
                                        size_t columns)
{
    size_t c = 0;
    for (; c + 16 <= columns; c += 16)
        lnp_half_grn_first_strip(isa, a + c, h + c, products + c, dbeta + c, da + c, stride, rows);
    lnp_half_grn_first_ref(a + c, h + c, products + c, dbeta + c, da + c, stride, rows,
                           columns - c);
}

LNP_INLINE void lnp_half_grn_second_strip(lensnet_isa isa, float *da, float *db, const uint16_t *a,
                                          const uint16_t *slope, const float *factor,
                                          const float *coef, size_t stride, size_t rows)
{
    const lnp_v16 scale = lnp_load_16(factor), other = lnp_load_16(coef);
    lnp_v16 sum = lnp_load_16(db);
    for (; rows; rows--, a += stride, slope += stride, da += stride) {
        const lnp_v16 grn = lnp_load_16(da) * scale + other * lnp_half_load(isa, a, 16);
        const lnp_v16 dh = grn * lnp_half_load(isa, slope, 16);
        lnp_whole_store(isa, da, dh, 16);
        sum += dh;
    }
    lnp_whole_store(isa, db, sum, 16);
}

LNP_INLINE void lnp_half_grn_second_body(lensnet_isa isa, float *da, float *db, const uint16_t *a,
                                         const uint16_t *slope, const float *factor,
                                         const float *coef, size_t stride, size_t rows,
                                         size_t columns)
{
    size_t c = 0;
    for (; c + 16 <= columns; c += 16)
        lnp_half_grn_second_strip(isa, da + c, db + c, a + c, slope + c, factor + c, coef + c,
                                  stride, rows);
    lnp_half_grn_second_ref(da + c, db + c, a + c, slope + c, factor + c, coef + c, stride, rows,
                            columns - c);
}

LNP_INLINE void lnp_half_scale_shift_body(lensnet_isa isa, float *y, size_t y_stride,
                                          const uint16_t *x, size_t x_stride, const float *factor,
                                          const float *shift, size_t rows, size_t columns)
{
    size_t c;
    for (; rows; rows--, x += x_stride, y += y_stride) {
        for (c = 0; c + 16 <= columns; c += 16)
            lnp_whole_store(isa, y + c,
                            lnp_half_load(isa, x + c, 16) * lnp_load_16(factor + c) +
                                lnp_load_16(shift + c),
                            16);
        lnp_half_scale_shift_ref(y + c, y_stride, x + c, x_stride, factor + c, shift + c, 1,
                                 columns - c);
    }
}

LNP_INLINE void lnp_half_respond_body(lensnet_isa isa, uint16_t *y, size_t y_stride,
                                      const uint16_t *x, size_t x_stride, const float *factor,
                                      const float *shift, size_t rows, size_t columns)
{
    size_t c;
    for (; rows; rows--, x += x_stride, y += y_stride) {
        for (c = 0; c + 16 <= columns; c += 16) {
            const lnp_v16 value =
                lnp_half_load(isa, x + c, 16) * lnp_load_16(factor + c) + lnp_load_16(shift + c);
            lnp_half_store(y + c, lnp_half_round(isa, value), 16);
        }
        lnp_half_respond_ref(y + c, y_stride, x + c, x_stride, factor + c, shift + c, 1,
                             columns - c);
    }
}

LNP_INLINE void lnp_half_normalize_body(lensnet_isa isa, uint16_t *y, size_t y_stride,
                                        const float *x, size_t x_stride, const float *mean,
                                        const float *rstd, const float *w, const float *b,
                                        size_t rows, size_t columns)
{
    size_t c;
    for (; rows; rows--, x += x_stride, y += y_stride, mean++, rstd++) {
        const lnp_v16 middle = lnp_splat_16(isa, *mean), scale = lnp_splat_16(isa, *rstd);
        for (c = 0; c + 16 <= columns; c += 16) {
            const lnp_v16 value = (lnp_load_16(x + c) - middle) * scale * lnp_load_16(w + c);
            lnp_half_store(y + c, lnp_half_round(isa, value + lnp_load_16(b + c)), 16);
        }
        lnp_half_normalize_ref(y + c, y_stride, x + c, x_stride, mean, rstd, w + c, b + c, 1,
                               columns - c);
    }
}

LNP_INLINE void lnp_half_gelu_rows_body(lensnet_isa isa, float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const lnp_h16 half = lnp_half_round(isa, lnp_load_16(x + i));
        const lnp_v16 gelu = lnp_half_gelu(isa, lnp_half_widen(isa, half), NULL);
        lnp_whole_store(isa, y + i, lnp_half_widen(isa, lnp_half_round(isa, gelu)), 16);
    }
    lnp_half_gelu_rows_ref(y + i, x + i, n - i);
}

LNP_INLINE void lnp_half_gelu_backward_body(lensnet_isa isa, float *dx, const float *dy,
                                            const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const lnp_h16 half = lnp_half_round(isa, lnp_load_16(x + i));
        lnp_v16 slope;
        lnp_half_gelu(isa, lnp_half_widen(isa, half), &slope);
        slope = lnp_half_widen(isa, lnp_half_round(isa, slope));
        lnp_whole_store(isa, dx + i, lnp_load_16(dy + i) * slope, 16);
    }
    lnp_half_gelu_backward_ref(dx + i, dy + i, x + i, n - i);
}

/* One function of the table for one instruction set. */
#define LNP_HALF_KERNEL(set, TARGET, isa, name, parameters, arguments)                             \
    TARGET static void lnp_half_##name##_##set parameters { lnp_half_##name##_body arguments; }
#define LNP_HALF_WIDE(set, TARGET, isa)                                                            \
    LNP_HALF_KERNEL(set, TARGET, isa, gelu_squares,                                                \
                    (uint16_t * a, uint16_t * kept, size_t stride, const float *h,                 \
                     size_t h_stride, float *sums, size_t rows, size_t columns),                   \
                    (isa, a, kept, stride, h, h_stride, sums, rows, columns))                      \
    LNP_HALF_KERNEL(set, TARGET, isa, grn_first,                                                   \
                    (uint16_t * a, uint16_t * h, float *products, float *dbeta, const float *da,   \
                     size_t stride, size_t rows, size_t columns),                                  \
                    (isa, a, h, products, dbeta, da, stride, rows, columns))
#define LNP_HALF_ROWS(set, TARGET, isa)                                                            \
    LNP_HALF_KERNEL(set, TARGET, isa, grn_second,                                                  \
                    (float *da, float *db, const uint16_t *a, const uint16_t *slope,               \
                     const float *factor, const float *coef, size_t stride, size_t rows,           \
                     size_t columns),                                                              \
                    (isa, da, db, a, slope, factor, coef, stride, rows, columns))                  \
    LNP_HALF_KERNEL(set, TARGET, isa, scale_shift,                                                 \
                    (float *y, size_t y_stride, const uint16_t *x, size_t x_stride,                \
                     const float *factor, const float *shift, size_t rows, size_t columns),        \
                    (isa, y, y_stride, x, x_stride, factor, shift, rows, columns))
#define LNP_HALF_FILLS(set, TARGET, isa)                                                           \
    LNP_HALF_KERNEL(set, TARGET, isa, respond,                                                     \
                    (uint16_t * y, size_t y_stride, const uint16_t *x, size_t x_stride,            \
                     const float *factor, const float *shift, size_t rows, size_t columns),        \
                    (isa, y, y_stride, x, x_stride, factor, shift, rows, columns))                 \
    LNP_HALF_KERNEL(set, TARGET, isa, normalize,                                                   \
                    (uint16_t * y, size_t y_stride, const float *x, size_t x_stride,               \
                     const float *mean, const float *rstd, const float *w, const float *b,         \
                     size_t rows, size_t columns),                                                 \
                    (isa, y, y_stride, x, x_stride, mean, rstd, w, b, rows, columns))
#define LNP_HALF_PLAIN(set, TARGET, isa)                                                           \
    LNP_HALF_KERNEL(set, TARGET, isa, gelu_rows, (float *y, const float *x, size_t n),             \
                    (isa, y, x, n))                                                                \
    LNP_HALF_KERNEL(set, TARGET, isa, gelu_backward,                                               \
                    (float *dx, const float *dy, const float *x, size_t n), (isa, dx, dy, x, n))
#define LNP_HALF_TABLE(set)                                                                        \
    static const lnp_half_kernels lnp_half_##set = {                                               \
        lnp_half_gelu_squares_##set, lnp_half_grn_first_##set,    lnp_half_grn_second_##set,       \
        lnp_half_scale_shift_##set,  lnp_half_respond_##set,      lnp_half_normalize_##set,        \
        lnp_half_gelu_rows_##set,    lnp_half_gelu_backward_##set};
#define LNP_HALF_SET(set, TARGET, isa)                                                             \
    LNP_HALF_WIDE(set, TARGET, isa)                                                                \
    LNP_HALF_ROWS(set, TARGET, isa)                                                                \
    LNP_HALF_FILLS(set, TARGET, isa)                                                               \
    LNP_HALF_PLAIN(set, TARGET, isa)                                                               \
    LNP_HALF_TABLE(set)

LNP_HALF_SET(portable, LNP_UNUSED, LENSNET_ISA_PORTABLE)
#if LNP_X86
LNP_HALF_SET(avx2, LNP_TARGET_AVX2, LENSNET_ISA_AVX2)
#endif
#if LNP_AVX512
LNP_HALF_SET(avx512, LNP_TARGET_AVX512, LENSNET_ISA_AVX512)
#endif
#if LNP_BFLOAT
LNP_HALF_SET(native, LNP_TARGET_BFLOAT, LENSNET_ISA_AVX512_BF16)
#endif
#endif

static const lnp_half_kernels lnp_half_reference = {
    lnp_half_gelu_squares_ref, lnp_half_grn_first_ref,    lnp_half_grn_second_ref,
    lnp_half_scale_shift_ref,  lnp_half_respond_ref,      lnp_half_normalize_ref,
    lnp_half_gelu_rows_ref,    lnp_half_gelu_backward_ref};

/* The kernels of an instruction set that lnp_detect_isa has returned. */
static const lnp_half_kernels *lnp_half_kernels_for(lensnet_isa isa)
{
#if LNP_BFLOAT
    if (isa == LENSNET_ISA_AVX512_BF16) return &lnp_half_native;
#endif
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) return &lnp_half_avx512;
#endif
#if LNP_X86
    if (isa >= LENSNET_ISA_AVX2) return &lnp_half_avx2;
#endif
#if LNP_VECTORS
    if (isa >= LENSNET_ISA_PORTABLE) return &lnp_half_portable;
#endif
    (void)isa;
    return &lnp_half_reference;
}

#if LNP_BFLOAT
/* ---- AVX-512 BF16: pairs in 32 bits, tiles as those of float32 ---------------------------------- */

LNP_TARGET_BFLOAT LNP_INLINE __m512 lnp_pairs_fma(__m512 factor, __m512 column, __m512 sum)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)factor, (__m512bh)column);
}

#define LNP_TILE_PAIRS(rows, vectors)                                                              \
    LNP_TILE(pairs, LNP_TARGET_BFLOAT, LENSNET_ISA_AVX512_BF16, rows, vectors, 16)
#define LNP_PRODUCT_PAIRS(rows, vectors)  lnp_product_##rows##x##vectors##_pairs,
#define LNP_GRADIENT_PAIRS(rows, vectors) lnp_gradient_##rows##x##vectors##_pairs,
LNP_HEIGHTS_14(LNP_TILE_PAIRS, 1)
LNP_HEIGHTS_14(LNP_TILE_PAIRS, 2)

/* 16 bits each of two vectors, rounded: those of low in the lower half. */
LNP_TARGET_BFLOAT LNP_INLINE __m512i lnp_round_two(__m512 high, __m512 low)
{
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Up to 32 elements of a row are up to 16 pairs as they lie; whole vectors are written. */
LNP_TARGET_BFLOAT static void lnp_narrow_pairs(float *packed, const float *row, size_t count)
{
    size_t i;
    for (i = 0; i < count; i += 32) {
        const __mmask16 low = lnp_first_lanes_avx512(count - i);
        const __mmask16 high = lnp_first_lanes_avx512(count - i > 16 ? count - i - 16 : 0);
        const __m512i pairs = lnp_round_two(_mm512_maskz_loadu_ps(high, row + i + 16),
                                            _mm512_maskz_loadu_ps(low, row + i));
        _mm512_storeu_si512(packed + i / 2, pairs);
    }
}

/* Pairs of two rows, 16 columns: (first[j], second[j]) in 32 bits. */
LNP_TARGET_BFLOAT LNP_INLINE __m512 lnp_join_rows(const float *first, const float *second,
                                                  __mmask16 lanes)
{
    const __m512i order =
        _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a,
                         0x00190009, 0x00180008, 0x00170007, 0x00160006, 0x00150005, 0x00140004,
                         0x00130003, 0x00120002, 0x00110001, 0x00100000);
    const __m512 low = _mm512_maskz_loadu_ps(lanes, first);
    const __m512 high = second ? _mm512_maskz_loadu_ps(lanes, second) : _mm512_setzero_ps();
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, lnp_round_two(high, low)));
}

LNP_TARGET_BFLOAT static void lnp_deal_pair_pairs(float *dealt, size_t pitch, size_t width,
                                                  const float *first, const float *second,
                                                  size_t pieces, size_t count, size_t longer)
{
    size_t p, j, floats;
    for (p = 0; p < pieces; p++, dealt += pitch, first += floats, second += second ? floats : 0) {
        floats = count + (p < longer);
        for (j = 0; j < width; j += 16)
            _mm512_storeu_ps(dealt + j,
                             lnp_join_rows(first + j, second ? second + j : NULL,
                                           lnp_first_lanes_avx512(floats > j ? floats - j : 0)));
    }
}

/* lnp_copy_block for B = w: `rows` of k become half as many. */
LNP_TARGET_BFLOAT static void lnp_pack_rows_pairs(float *packed, size_t width, const float *source,
                                                  size_t stride, size_t rows, size_t count)
{
    size_t i;
    for (i = 0; i < rows; i += 2, packed += width, source += 2 * stride)
        lnp_deal_pair_pairs(packed, 0, width, source, i + 1 < rows ? source + stride : NULL, 1,
                            count, 0);
}

/* lnp_pack_panel: rows of w become rows of pairs, which are then turned as floats are. */
LNP_TARGET_BFLOAT static void lnp_pack_panel_pairs(float *packed, size_t width, const float *w,
                                                   size_t stride, size_t count, size_t k)
{
    enum { at_once = 128 };
    float pairs[LNP_COLUMNS_MAX * at_once / 2];
    size_t first, j;
    for (first = 0; first < k; first += at_once) {
        const size_t elements = lnp_min(at_once, k - first);
        for (j = 0; j < count; j++)
            lnp_narrow_pairs(pairs + j * (at_once / 2), w + j * stride + first, elements);
        lnp_gemm_avx512.pack_panel(packed + first / 2 * width, width, pairs, at_once / 2, count,
                                   lnp_ceil_div(elements, 2));
    }
}

static const lnp_bfloat_kernels lnp_bfloat_pairs = {2, 0, lnp_narrow_pairs, lnp_deal_pair_pairs,
                                                    NULL};

static const lnp_gemm_kernels lnp_gemm_pairs = {
    LENSNET_ISA_AVX512_BF16,
    14,
    16,
    32,
    16,
    {{LNP_HEIGHTS_14(LNP_PRODUCT_PAIRS, 1)}, {LNP_HEIGHTS_14(LNP_PRODUCT_PAIRS, 2)}},
    {{LNP_HEIGHTS_14(LNP_GRADIENT_PAIRS, 1)}, {LNP_HEIGHTS_14(LNP_GRADIENT_PAIRS, 2)}},
    NULL,
    lnp_pack_rows_pairs,
    NULL,
    lnp_pack_panel_pairs,
    &lnp_bfloat_pairs};
#endif
#if LNP_BFLOAT
/* Does the instruction what the twin does? (a, b) in pairs, 16 at a time. */
LNP_TARGET_BFLOAT static int lnp_bfloat_probe_lanes(const float *a, const float *b, float *sums)
{
    float pairs[2][16], result[16];
    int i, same = 1;
    lnp_narrow_pairs(pairs[0], a, 32);
    lnp_narrow_pairs(pairs[1], b, 32);
    _mm512_storeu_ps(result, lnp_pairs_fma(_mm512_loadu_ps(pairs[0]), _mm512_loadu_ps(pairs[1]),
                                           _mm512_loadu_ps(sums)));
    for (i = 0; i < 16; i++) {
        const float a0 = lnp_bfloat_round(a[2 * i]), a1 = lnp_bfloat_round(a[2 * i + 1]);
        const float b0 = lnp_bfloat_round(b[2 * i]), b1 = lnp_bfloat_round(b[2 * i + 1]);
        const float expected = lnp_bfloat_fma(a0, b0, lnp_bfloat_fma(a1, b1, sums[i]));
        const int numbers = expected == expected || result[i] == result[i];
        if (numbers && lnp_float_bits(expected) != lnp_float_bits(result[i])) same = 0;
    }
    return same;
}

/* Numbers at the edges of the law against each other, and sums that cancel. */
static int lnp_bfloat_probe(void)
{
    static const uint32_t edges[16] = {0x00000000, 0x80000000, 0x00000001, 0x807fffff,
                                       0x00800000, 0x80800001, 0x1f801000, 0x9f7f8000,
                                       0x3f800000, 0xbf818000, 0x3f808000, 0x7f7fffff,
                                       0x7f800000, 0xff800000, 0x7f800001, 0xffc00000};
    float a[32], b[32], sums[16];
    uint32_t i, l;
    int same = 1;
    for (i = 0; i < 16 * 16; i++) {
        for (l = 0; l < 16; l++) {
            a[2 * l] = lnp_bits_float(edges[l]);
            a[2 * l + 1] = lnp_bits_float(edges[i % 16]);
            b[2 * l] = lnp_bits_float(edges[i / 16]);
            b[2 * l + 1] = lnp_bits_float(edges[(3 * i + 5 * l) % 16]);
            sums[l] = lnp_bits_float(edges[(i + l) % 16] ^ (l * 0x80001u));
        }
        same &= lnp_bfloat_probe_lanes(a, b, sums);
    }
    return same;
}
#endif

/* The kernels of products in bfloat16 for an instruction set that lnp_detect_isa has returned. */
static lnp_gemm_kernels lnp_bfloat_kernels_for(lensnet_isa isa)
{
    lnp_gemm_kernels kernels = *lnp_gemm_kernels_for(isa);
#if LNP_BFLOAT
    if (isa == LENSNET_ISA_AVX512_BF16 && lnp_bfloat_probe()) return lnp_gemm_pairs;
#endif
    kernels.bfloat = &lnp_bfloat_portable;
#if LNP_X86
    if (isa >= LENSNET_ISA_AVX2) kernels.bfloat = &lnp_bfloat_avx2;
#endif
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) kernels.bfloat = &lnp_bfloat_avx512;
#endif
    return kernels;
}
/* =================================================================================================
 * >>gemm  Matrix products: where nine tenths of the time goes. Three drivers over the tiles above:
 * lnp_pack_weights, lnp_multiply_rows (forward and dX) and lnp_multiply_gradient (dW).
 *
 * The law of same bits: every output is ONE chain of fused multiply-adds over the reduction index
 * in ascending order. It begins with the bias (or 0, or what stands in memory) and goes on from
 * memory between blocks, so that tile, block, thread count and instruction set cannot change a bit.
 * ============================================================================================== */

/* Rows that a worker takes through all panels, 12 tiles of 14 and 3 chunks of 56, unless they are
 * so long that no more than LNP_BLOCK_FLOATS floats fit the second-level cache. */
#define LNP_BLOCK_ROWS   ((size_t)168)
#define LNP_BLOCK_FLOATS ((size_t)176 * 1024)
/* Left operands up to this size, or up to what the threads would pack for themselves, in up to so many
 * blocks, may be packed by all threads for all. */
#define LNP_SHARED_FLOATS ((size_t)1024 * 1024)
#define LNP_SHARED_BLOCKS ((size_t)32)
/* dW: rows of dY and X that are packed at a time, rows that are packed together, and floats of
 * packed X that stay in the second-level cache while dY passes. */
#define LNP_GRADIENT_ROWS   ((size_t)384)
#define LNP_GRADIENT_GROUP  ((size_t)16)
#define LNP_GRADIENT_FLOATS ((size_t)96 * 1024)

/* Writes A[first_row + i][first_k + j] to rows[i * stride + j], i < row_count, j < k_count, and
 * nothing else; row_count <= 32, k_count <= 384. Called from several threads. */
typedef void (*lnp_fill)(const void *context, float *rows, size_t stride, size_t first_row,
                         size_t row_count, size_t first_k, size_t k_count);

/* The same in bfloat16. */
typedef void (*lnp_fill16)(const void *context, uint16_t *rows, size_t stride, size_t first_row,
                           size_t row_count, size_t first_k, size_t k_count);

/* Called once for every output, when the block's outputs are final and still in the cache: `outputs`
 * is where the first one stands, `stride` floats from row to row. Called from several threads, for
 * disjoint blocks. */
typedef void (*lnp_finish)(const void *context, float *outputs, size_t stride, size_t first_row,
                           size_t row_count, size_t first_column, size_t column_count);

/* Called once for every chunk of rows, before anything reads them or after all their outputs are final.
 * Called from several threads, for disjoint chunks. */
typedef void (*lnp_visit)(const void *context, size_t first_row, size_t row_count);

/* out[m][n] = bias[n] + sum over k of A[m][k] * B[k][n] */
typedef struct lnp_product {
    size_t m, n, k;
    const float *a; /* A */
    size_t a_stride;
    lnp_fill fill; /* if not NULL, it makes A; `a` is then NULL or what it reads, to fetch early */
    lnp_fill16 fill16;   /* may be NULL: what fill makes, rounded to bfloat16 */
    const float *packed; /* B, by lnp_pack_weights with the same kernels */
    const float *bias;   /* n floats; NULL: zeros */
    int accumulate;      /* chains start from out; bias is not used */
    float *out;          /* NULL: nobody keeps the outputs that finish has seen */
    size_t out_stride;
    lnp_visit begin;     /* may be NULL: rows of A before they are read */
    lnp_finish finish;   /* may be NULL: outputs of one panel */
    lnp_visit end;       /* may be NULL: rows of outputs */
    const void *context; /* of these four */
    /* chunk_rows != 0: the rows are segments (samples) of segment_rows rows, each cut from its
     * start into chunks of chunk_rows <= LNP_BLOCK_ROWS rows, the last one short. begin and end see
     * one chunk, finish a whole number of consecutive ones. */
    size_t segment_rows, chunk_rows;
} lnp_product;

/* dw[n][k] += sum over m of dy[m][n] * x[m][k] */
typedef struct lnp_gradient_product {
    size_t m, n, k;
    const float *dy;
    size_t dy_stride;
    const float *x; /* X */
    size_t x_stride;
    lnp_fill x_fill; /* as in lnp_product */
    const void *x_fill_context;
    float *dw;           /* (n, k), contiguous */
    size_t segment_rows; /* of a sample: pairs of bfloat16 do not reach from one to the next */
} lnp_gradient_product;

/* ---- weights --------------------------------------------------------------------------------- */

/* Columns that panel `first_column` occupies: a whole panel, or the half that holds the rest. */
static size_t lnp_panel_width(const lnp_gemm_kernels *kernels, size_t n, size_t first_column)
{
    return lnp_min(kernels->columns, lnp_round_up(n - first_column, kernels->lanes));
}

/* Steps of the tiles over k elements of the reduction, each as long as a float. */
static size_t lnp_steps(const lnp_gemm_kernels *kernels, size_t k)
{
    return kernels->bfloat ? lnp_round_up(k, 2) / kernels->bfloat->elements : k;
}

static size_t lnp_packed_floats(const lnp_gemm_kernels *kernels, size_t n, size_t k)
{
    return lnp_round_up(n, kernels->lanes) * lnp_steps(kernels, k);
}

/* Panels first ... end - 1 of B = w^T. */
static void lnp_pack_transposed(const lnp_gemm_kernels *kernels, float *packed, const float *w,
                                size_t n, size_t k, size_t first, size_t end)
{
    for (; first < end; first++) {
        const size_t column = first * kernels->columns;
        const size_t width = lnp_panel_width(kernels, n, column);
        float *panel = packed + column * lnp_steps(kernels, k);
        kernels->pack_panel(panel, width, w + column * k, k, lnp_min(width, n - column), k);
        if (kernels->bfloat && kernels->bfloat->settle) kernels->bfloat->settle(panel, width, k);
    }
}

/* Rows first ... end - 1 of B = w, in all panels; in bfloat16 `first` is even. */
static void lnp_pack_straight(const lnp_gemm_kernels *kernels, float *packed, const float *w,
                              size_t n, size_t k, size_t first, size_t end)
{
    const size_t steps = lnp_steps(kernels, k), step = lnp_steps(kernels, first);
    size_t column;
    for (column = 0; column < n; column += kernels->columns) {
        const size_t width = lnp_panel_width(kernels, n, column);
        float *rows = packed + column * steps + step * width;
        kernels->pack_rows(rows, width, w + first * n + column, n, end - first,
                           lnp_min(width, n - column));
        if (kernels->bfloat && kernels->bfloat->settle)
            kernels->bfloat->settle(rows, width, end - first);
    }
}

typedef struct lnp_packing {
    const lnp_gemm_kernels *kernels;
    float *packed;
    const float *w;
    size_t n, k;
    int transposed;
    size_t rows, unit, shares; /* of w; in whole units; dealt to so many tasks */
} lnp_packing;

static void lnp_pack_share(const void *context, size_t share, size_t worker)
{
    const lnp_packing *p = (const lnp_packing *)context;
    const size_t units = lnp_ceil_div(p->rows, p->unit);
    const size_t first = units * share / p->shares * p->unit;
    const size_t end = lnp_min(p->rows, units * (share + 1) / p->shares * p->unit);
    (void)worker;
    (p->transposed ? lnp_pack_transposed : lnp_pack_straight)(p->kernels, p->packed, p->w, p->n,
                                                              p->k, first, end);
}

/* Packs B (k, n) into panels. transposed: w is (n, k), as a linear layer keeps it, B[k][n] =
 * w[n][k]; else w is B itself, (k, n). `packed` is 64-byte aligned. Either way a worker has rows of w,
 * which it finds in its own cache when the other order is packed after the one. */
static void lnp_pack_weights(const lnp_gemm_kernels *kernels, float *packed, const float *w,
                             size_t n, size_t k, int transposed, lnp_team *team)
{
    lnp_packing p;
    p.kernels = kernels;
    p.packed = packed;
    p.w = w;
    p.n = n;
    p.k = k;
    p.transposed = transposed;
    p.rows = transposed ? lnp_ceil_div(n, kernels->columns) : k;
    p.unit = !transposed && kernels->bfloat ? 2 : 1;
    p.shares = lnp_team_shares(team, lnp_ceil_div(p.rows, p.unit));
    lnp_team_run(team, lnp_pack_share, &p, p.shares);
}

/* ---- rows: forward and dX -------------------------------------------------------------------- */

/* How the rows of a product may be cut. */
typedef struct lnp_chunks {
    size_t m, segment_rows, rows, per_segment, count;
} lnp_chunks;

static lnp_chunks lnp_chunks_of(const lnp_gemm_kernels *kernels, const lnp_product *job)
{
    lnp_chunks chunks;
    chunks.m = job->m;
    chunks.segment_rows = job->chunk_rows ? job->segment_rows : job->m;
    chunks.rows = job->chunk_rows ? job->chunk_rows : kernels->rows;
    chunks.per_segment = lnp_ceil_div(chunks.segment_rows, chunks.rows);
    chunks.count = job->m / chunks.segment_rows * chunks.per_segment +
                   lnp_ceil_div(job->m % chunks.segment_rows, chunks.rows);
    return chunks;
}

static size_t lnp_chunk_start(const lnp_chunks *chunks, size_t chunk)
{
    return lnp_min(chunks->m, chunk / chunks->per_segment * chunks->segment_rows +
                                  chunk % chunks->per_segment * chunks->rows);
}

static void lnp_visit_chunks(const lnp_product *job, lnp_visit visit, const lnp_chunks *chunks,
                             size_t first, size_t end)
{
    for (; visit && first < end; first++) {
        const size_t row = lnp_chunk_start(chunks, first);
        visit(job->context, row, lnp_chunk_start(chunks, first + 1) - row);
    }
}

/* The chunk boundary nearest to a row. */
static size_t lnp_chunk_near(const lnp_chunks *chunks, size_t row)
{
    const size_t chunk = row / chunks->segment_rows * chunks->per_segment +
                         row % chunks->segment_rows / chunks->rows;
    const size_t below = lnp_chunk_start(chunks, chunk);
    if (chunk >= chunks->count) return chunks->count;
    return row - below > lnp_chunk_start(chunks, chunk + 1) - row ? chunk + 1 : chunk;
}

/* Reduction: equal blocks of a multiple of 16 steps. */
static size_t lnp_k_blocks(size_t steps) { return lnp_max(1, lnp_ceil_div(steps, LNP_K_BLOCK)); }
static size_t lnp_k_block(size_t steps)
{
    return lnp_round_up(lnp_ceil_div(steps, lnp_k_blocks(steps)), 16);
}

static size_t lnp_tile_floats(const lnp_gemm_kernels *kernels, size_t k)
{
    return kernels->rows * LNP_ROW_PITCH * lnp_k_blocks(lnp_steps(kernels, k));
}

static size_t lnp_block_rows(size_t steps, size_t chunk_rows)
{
    const size_t fitting = LNP_BLOCK_FLOATS / lnp_max(steps, 1);
    return lnp_max(chunk_rows, lnp_min(LNP_BLOCK_ROWS, fitting));
}

static size_t lnp_tiles_in(const lnp_gemm_kernels *kernels, size_t rows)
{
    return lnp_ceil_div(rows, kernels->rows);
}

/* Rows of a left operand that all threads may pack for all. */
static size_t lnp_shared_rows(size_t k, int threads)
{
    const size_t rows =
        lnp_max(LNP_SHARED_FLOATS / lnp_max(k, 1), LNP_BLOCK_ROWS * (size_t)threads);
    return threads > 1 ? lnp_min(rows, LNP_SHARED_BLOCKS * LNP_BLOCK_ROWS) : 0;
}

/* A pair of rows as they are and packed. */
static size_t lnp_reference_floats(size_t k) { return 4 * lnp_round_up(k, 2); }

/* For m rows or fewer: a last micro-batch may be shared where a whole one is not. */
static size_t lnp_product_scratch_floats(const lnp_gemm_kernels *kernels, size_t m, size_t k,
                                         int threads)
{
    const size_t shared_rows = lnp_min(m, lnp_shared_rows(k, threads));
    const size_t own = lnp_tiles_in(kernels, lnp_min(m, LNP_BLOCK_ROWS)) * (size_t)threads;
    const size_t shared =
        lnp_tiles_in(kernels, shared_rows) + lnp_min(shared_rows, LNP_SHARED_BLOCKS);
    if (kernels->isa == LENSNET_ISA_REFERENCE) return lnp_reference_floats(k);
    return lnp_tile_floats(kernels, k) * lnp_max(own, shared);
}

/* sum + a . b, over the steps of packed operands. */
static float lnp_chain_ref(const lnp_gemm_kernels *kernels, float sum, const float *a,
                           const float *b, size_t k)
{
    const size_t steps = lnp_steps(kernels, k);
    size_t i;
    for (i = 0; i < steps; i++)
        sum = kernels->bfloat ? lnp_bfloat_fma(a[i], b[i], sum) : lnp_fma(a[i], b[i], sum);
    return sum;
}

/* Row m of the left operand, as the chains read it. */
static const float *lnp_left_row_ref(const lnp_gemm_kernels *kernels, const lnp_product *job,
                                     size_t m, float *row)
{
    float *packed = row + lnp_round_up(job->k, 2);
    size_t k, done;
    for (k = 0; k < job->k; k += done) {
        done = lnp_min(LNP_K_BLOCK, job->k - k);
        if (job->fill)
            job->fill(job->context, row + k, job->k, m, 1, k, done);
        else
            memcpy(row + k, job->a + m * job->a_stride + k, done * sizeof(float));
    }
    if (!kernels->bfloat) return row;
    kernels->bfloat->narrow(packed, row, job->k);
    return packed;
}

/* Some columns of a chunk. */
static LNP_NOINLINE void lnp_multiply_chunk_ref(const lnp_gemm_kernels *kernels,
                                                const lnp_product *job, size_t first_row,
                                                size_t rows, size_t column, float *row)
{
    const size_t steps = lnp_steps(kernels, job->k);
    const size_t columns = lnp_min(LNP_COLUMNS_MAX, job->n - column);
    const size_t stride = job->out ? job->out_stride : LNP_COLUMNS_MAX;
    float own[LNP_BLOCK_ROWS * LNP_COLUMNS_MAX];
    float *first = job->out ? job->out + first_row * stride + column : own, *out = first;
    size_t m, n;
    for (m = 0; m < rows; m++, out += stride) {
        const float *left = lnp_left_row_ref(kernels, job, first_row + m, row);
        for (n = 0; n < columns; n++) {
            const float bias = job->bias ? job->bias[column + n] : 0.0f;
            out[n] = lnp_chain_ref(kernels, job->accumulate ? out[n] : bias, left,
                                   job->packed + (column + n) * steps, job->k);
        }
    }
    if (job->finish) job->finish(job->context, first, stride, first_row, rows, column, columns);
}

/* The plain twin: no packing, no tiles, one thread. */
static void lnp_multiply_rows_ref(const lnp_gemm_kernels *kernels, const lnp_product *job,
                                  const lnp_chunks *chunks, float *row)
{
    size_t i, column;
    lnp_visit_chunks(job, job->begin, chunks, 0, chunks->count);
    for (i = 0; i < chunks->count; i++) {
        const size_t first = lnp_chunk_start(chunks, i);
        const size_t rows = lnp_chunk_start(chunks, i + 1) - first;
        for (column = 0; column < job->n; column += LNP_COLUMNS_MAX)
            lnp_multiply_chunk_ref(kernels, job, first, rows, column, row);
    }
    lnp_visit_chunks(job, job->end, chunks, 0, chunks->count);
}

/* Deals `count` to `shares` evenly, the larger shares first: where share `i` begins. */
static size_t lnp_share_start(size_t count, size_t shares, size_t i)
{
    return i * (count / shares) + lnp_min(i, count % shares);
}

/* A worker's rows and where their packed copy lies: [block of k][tile][row][LNP_ROW_PITCH]. */
typedef struct lnp_row_block {
    size_t first_row, rows, tiles;
    size_t even, longer; /* rows in a tile; the first `longer` tiles have one more */
    float *packed;
} lnp_row_block;

static float *lnp_packed_tile(const lnp_gemm_kernels *kernels, const lnp_row_block *block,
                              size_t k_block, size_t tile)
{
    return block->packed + (k_block * block->tiles + tile) * kernels->rows * LNP_ROW_PITCH;
}

/* The rows are dealt to the tiles evenly: 49 = 13 + 12 + 12 + 12, so that no tile is a thin rest.
 * */
static size_t lnp_tile_start(const lnp_row_block *block, size_t tile)
{
    return tile * block->even + lnp_min(tile, block->longer);
}

/* Columns k ... k + count - 1 of the left operand's rows, rounded to bfloat16, as a tile has them. */
static void lnp_fill_bfloat(const lnp_bfloat_kernels *bfloat, const lnp_product *job, float *packed,
                            size_t row, size_t rows, size_t k, size_t count)
{
    enum { rows_at_once = 4 };
    float filled[rows_at_once * LNP_K_BLOCK];
    size_t i, j, first, part;
    if (job->fill16 && bfloat->elements == 2) {
        uint16_t *pairs = (uint16_t *)(void *)packed;
        job->fill16(job->context, pairs, 2 * LNP_ROW_PITCH, row, rows, k, count);
        for (i = 0; count % 2 && i < rows; i++) pairs[2 * LNP_ROW_PITCH * i + count] = 0;
        return;
    }
    if (!job->fill) {
        for (i = 0; i < rows; i++)
            bfloat->narrow(packed + i * LNP_ROW_PITCH, job->a + (row + i) * job->a_stride + k,
                           count);
        return;
    }
    for (i = 0; i < rows; i += rows_at_once)
        for (first = 0; first < count; first += part) {
            const size_t some = lnp_min(rows_at_once, rows - i);
            part = lnp_min(LNP_K_BLOCK, count - first);
            job->fill(job->context, filled, LNP_K_BLOCK, row + i, some, k + first, part);
            for (j = 0; j < some; j++)
                bfloat->narrow(packed + (i + j) * LNP_ROW_PITCH + first / bfloat->elements,
                               filled + j * LNP_K_BLOCK, part);
        }
}

static void lnp_fill_bfloat_tile(const lnp_gemm_kernels *kernels, const lnp_product *job,
                                 const lnp_row_block *block, size_t tile)
{
    const size_t step = lnp_k_block(lnp_steps(kernels, job->k)) * kernels->bfloat->elements;
    const size_t first = lnp_tile_start(block, tile);
    size_t k;
    for (k = 0; k < job->k; k += step)
        lnp_fill_bfloat(kernels->bfloat, job, lnp_packed_tile(kernels, block, k / step, tile),
                        block->first_row + first, lnp_tile_start(block, tile + 1) - first, k,
                        lnp_min(step, job->k - k));
}

static void lnp_fill_tile(const lnp_gemm_kernels *kernels, const lnp_product *job,
                          const lnp_row_block *block, size_t tile)
{
    const size_t step = lnp_k_block(job->k);
    const size_t first = lnp_tile_start(block, tile);
    const size_t rows = lnp_tile_start(block, tile + 1) - first;
    size_t k, i;
    if (kernels->bfloat) {
        lnp_fill_bfloat_tile(kernels, job, block, tile);
        return;
    }
    for (k = 0; k < job->k; k += step) {
        const size_t count = lnp_min(step, job->k - k);
        const size_t row = block->first_row + first;
        float *packed = lnp_packed_tile(kernels, block, k / step, tile);
        if (job->fill) {
            job->fill(job->context, packed, LNP_ROW_PITCH, row, rows, k, count);
        } else {
            for (i = 0; i < rows; i++)
                memcpy(packed + i * LNP_ROW_PITCH, job->a + (row + i) * job->a_stride + k,
                       count * sizeof(float));
        }
    }
}

/* One call of a tile. */
typedef struct lnp_tile_call {
    lnp_tile tile;
    const float *a, *b;
    size_t steps;
    const float *start; /* NULL: chains go on from c */
    float *c;
    size_t c_stride;
    const float *ahead;
    size_t rows, width;
    size_t row_step, k_step; /* floats of a from row to row and from step to step */
} lnp_tile_call;

static void lnp_call_tile(const lnp_gemm_kernels *kernels, const lnp_tile_call *call, float *c,
                          size_t c_stride)
{
#if LNP_X86
    const int flush = kernels->bfloat && kernels->bfloat->flush;
    const uint64_t mode = flush ? lnp_mode_get() : 0;
    if (flush) lnp_mode_set(mode | LNP_FLUSH_MODE);
    call->tile(call->a, call->b, call->steps, call->start, c, c_stride, call->ahead);
    if (flush) lnp_mode_set(mode);
#else
    if (kernels->bfloat)
        lnp_tile_twin(call->a, call->b, call->steps, call->start, c, c_stride, call->ahead,
                      call->rows, call->width, call->row_step, call->k_step);
    else
        call->tile(call->a, call->b, call->steps, call->start, c, c_stride, call->ahead);
#endif
}

/* A tile of which `columns` are wanted. Where these are not whole vectors it goes through a buffer, so
 * that nothing is read or written beyond them. */
static void lnp_run_tile(const lnp_gemm_kernels *kernels, const lnp_tile_call *call, size_t columns)
{
    float buffer[LNP_TILE_ROWS_MAX * LNP_COLUMNS_MAX];
    size_t i;
    if (columns == call->width) {
        lnp_call_tile(kernels, call, call->c, call->c_stride);
        return;
    }
    if (!call->start) {
        memset(buffer, 0, sizeof buffer);
        for (i = 0; i < call->rows; i++)
            memcpy(buffer + i * LNP_COLUMNS_MAX, call->c + i * call->c_stride,
                   columns * sizeof(float));
    }
    lnp_call_tile(kernels, call, buffer, LNP_COLUMNS_MAX);
    for (i = 0; i < call->rows; i++)
        memcpy(call->c + i * call->c_stride, buffer + i * LNP_COLUMNS_MAX, columns * sizeof(float));
}

/* One panel of B and the columns of the output that it makes. */
typedef struct lnp_panel {
    size_t column, columns, width; /* columns <= width */
    const lnp_tile *tiles;         /* by rows - 1 */
    const float *b;
    size_t steps, step, k_blocks; /* of the reduction: all, in a block, blocks */
    float *out;                   /* of the first row of the block */
    size_t out_stride;
    float start[LNP_COLUMNS_MAX]; /* where the chains begin */
} lnp_panel;

/* `own` holds the outputs if nobody keeps them: LNP_OWN_FLOATS. */
#define LNP_OWN_FLOATS (LNP_BLOCK_ROWS * LNP_COLUMNS_MAX + LNP_ALIGNMENT / sizeof(float))
static void lnp_panel_open(lnp_panel *panel, const lnp_gemm_kernels *kernels,
                           const lnp_product *job, const lnp_row_block *block, size_t index,
                           float *own)
{
    size_t j;
    panel->column = index * kernels->columns;
    panel->width = lnp_panel_width(kernels, job->n, panel->column);
    panel->columns = lnp_min(panel->width, job->n - panel->column);
    panel->tiles = kernels->product[panel->width / kernels->lanes - 1];
    panel->steps = lnp_steps(kernels, job->k);
    panel->step = lnp_k_block(panel->steps);
    panel->k_blocks = lnp_k_blocks(panel->steps);
    panel->b = job->packed + panel->column * panel->steps;
    panel->out_stride = job->out ? job->out_stride : LNP_COLUMNS_MAX;
    while (!job->out && (uintptr_t)own % LNP_ALIGNMENT) own++;
    panel->out = job->out ? job->out + block->first_row * job->out_stride + panel->column : own;
    for (j = 0; j < panel->width; j++)
        panel->start[j] = job->bias && j < panel->columns ? job->bias[panel->column + j] : 0.0f;
}

/* One tile over one block of k. */
static void lnp_multiply_tile(const lnp_gemm_kernels *kernels, const lnp_product *job,
                              const lnp_row_block *block, const lnp_panel *panel, size_t k_block,
                              size_t t, const float *ahead)
{
    const size_t step = k_block * panel->step;
    const size_t first = lnp_tile_start(block, t);
    lnp_tile_call call;
    call.rows = lnp_tile_start(block, t + 1) - first;
    call.width = panel->width;
    call.tile = panel->tiles[call.rows - 1];
    call.a = lnp_packed_tile(kernels, block, k_block, t);
    call.b = panel->b + step * panel->width;
    call.steps = lnp_min(panel->step, panel->steps - step);
    call.start = k_block || job->accumulate ? NULL : panel->start;
    call.c = panel->out + first * panel->out_stride;
    call.c_stride = panel->out_stride;
    call.ahead = ahead;
    call.row_step = LNP_ROW_PITCH;
    call.k_step = 1;
    lnp_run_tile(kernels, &call, panel->columns);
}

static void lnp_panel_close(const lnp_product *job, const lnp_row_block *block,
                            const lnp_panel *panel)
{
    if (job->finish)
        job->finish(job->context, panel->out, panel->out_stride, block->first_row, block->rows,
                    panel->column, panel->columns);
}

/* All outputs of one block of rows and one panel: a part of the panel that fits the first-level
 * cache meets every tile, while the next part is fetched. */
static void lnp_multiply_panel_into(float *own, const lnp_gemm_kernels *kernels,
                                    const lnp_product *job, const lnp_row_block *block,
                                    size_t index)
{
    lnp_panel panel;
    size_t k_block, t;
    lnp_panel_open(&panel, kernels, job, block, index, own);
    for (k_block = 0; k_block < panel.k_blocks; k_block++)
        for (t = 0; t < block->tiles; t++) {
            const float *next = panel.b + (k_block + 1) * panel.step * panel.width;
            lnp_multiply_tile(kernels, job, block, &panel, k_block, t,
                              t * 16 < panel.width ? next + t * panel.step * 16 : panel.b);
        }
    lnp_panel_close(job, block, &panel);
}

/* The same for the first panel, which packs each tile just before its use, while the rows of the
 * next one are fetched. */
static void lnp_fill_and_multiply_panel_into(float *own, const lnp_gemm_kernels *kernels,
                                             const lnp_product *job, const lnp_row_block *block,
                                             size_t index)
{
    lnp_panel panel;
    size_t k_block, t;
    lnp_panel_open(&panel, kernels, job, block, index, own);
    for (t = 0; t < block->tiles; t++) {
        const size_t next_row = block->first_row + lnp_tile_start(block, t + 1);
        const float *next = job->a ? job->a + next_row * job->a_stride : panel.b;
        lnp_fill_tile(kernels, job, block, t);
        for (k_block = 0; k_block < panel.k_blocks; k_block++)
            lnp_multiply_tile(kernels, job, block, &panel, k_block, t,
                              next + k_block * panel.step * 16);
    }
    lnp_panel_close(job, block, &panel);
}

typedef void (*lnp_panel_work)(float *own, const lnp_gemm_kernels *kernels, const lnp_product *job,
                               const lnp_row_block *block, size_t index);

/* Outputs that nobody keeps lie on the stack: 21 kB, which no other product shall take. */
static LNP_NOINLINE void lnp_unkept_panel(lnp_panel_work work, const lnp_gemm_kernels *kernels,
                                          const lnp_product *job, const lnp_row_block *block,
                                          size_t index)
{
    float own[LNP_OWN_FLOATS];
    work(own, kernels, job, block, index);
}

static void lnp_work_on_panel(lnp_panel_work work, const lnp_gemm_kernels *kernels,
                              const lnp_product *job, const lnp_row_block *block, size_t index)
{
    if (job->out)
        work(NULL, kernels, job, block, index);
    else
        lnp_unkept_panel(work, kernels, job, block, index);
}

static void lnp_multiply_panel(const lnp_gemm_kernels *kernels, const lnp_product *job,
                               const lnp_row_block *block, size_t index)
{
    lnp_work_on_panel(lnp_multiply_panel_into, kernels, job, block, index);
}

static void lnp_fill_and_multiply_panel(const lnp_gemm_kernels *kernels, const lnp_product *job,
                                        const lnp_row_block *block)
{
    lnp_work_on_panel(lnp_fill_and_multiply_panel_into, kernels, job, block, 0);
}

/* Cuts the block that begins at `chunk` from the chunks before `end`: even shares of at most
 * `most_rows`, and at least one chunk. Returns the chunk after it. */
static size_t lnp_next_block(const lnp_gemm_kernels *kernels, const lnp_chunks *chunks,
                             size_t chunk, size_t end, size_t most_rows, lnp_row_block *block)
{
    const size_t row = lnp_chunk_start(chunks, chunk);
    const size_t left = lnp_chunk_start(chunks, end) - row;
    size_t next = lnp_chunk_near(chunks, row + left / lnp_ceil_div(left, most_rows));
    while (next > chunk + 1 && lnp_chunk_start(chunks, next) - row > most_rows) next--;
    next = lnp_min(lnp_max(next, chunk + 1), end);
    block->first_row = row;
    block->rows = lnp_chunk_start(chunks, next) - row;
    block->tiles = lnp_tiles_in(kernels, block->rows);
    block->even = block->rows / block->tiles;
    block->longer = block->rows % block->tiles;
    return next;
}

/* A product on its way, as tasks see it. */
typedef struct lnp_rows_work {
    const lnp_gemm_kernels *kernels;
    const lnp_product *job;
    lnp_chunks chunks;
    float *scratch;
    size_t shares; /* of the rows, when each worker packs its own */
    size_t count;  /* of blocks, when all pack for all; else 0 */
    lnp_row_block blocks[LNP_SHARED_BLOCKS];
} lnp_rows_work;

/* As many shares as workers, each cut into blocks, so that what is left of a share can be taken over. */
static size_t lnp_row_shares(const lnp_rows_work *work, size_t threads)
{
    const size_t most_rows =
        lnp_block_rows(lnp_steps(work->kernels, work->job->k), work->chunks.rows);
    return threads * lnp_ceil_div(lnp_ceil_div(work->job->m, threads), most_rows);
}

/* One share of the rows, which the worker packs and takes through all panels. */
static void lnp_multiply_own_rows(const void *context, size_t share, size_t worker)
{
    const lnp_rows_work *work = (const lnp_rows_work *)context;
    const lnp_gemm_kernels *kernels = work->kernels;
    const lnp_product *job = work->job;
    const lnp_chunks *chunks = &work->chunks;
    const size_t most_rows = lnp_block_rows(lnp_steps(kernels, job->k), chunks->rows);
    const size_t panels = lnp_ceil_div(job->n, kernels->columns);
    const size_t end = lnp_chunk_near(chunks, job->m * (share + 1) / work->shares);
    size_t chunk = lnp_chunk_near(chunks, job->m * share / work->shares);
    lnp_row_block block;
    size_t next, i;
    block.packed = work->scratch + worker * lnp_tile_floats(kernels, job->k) *
                                       lnp_tiles_in(kernels, lnp_min(job->m, LNP_BLOCK_ROWS));
    for (; chunk < end; chunk = next) {
        next = lnp_next_block(kernels, chunks, chunk, end, most_rows, &block);
        lnp_visit_chunks(job, job->begin, chunks, chunk, next);
        lnp_fill_and_multiply_panel(kernels, job, &block);
        for (i = 1; i < panels; i++) lnp_multiply_panel(kernels, job, &block, i);
        lnp_visit_chunks(job, job->end, chunks, chunk, next);
    }
}

/* Cuts all rows into blocks for the shared way; their number, or 0 if there are too many. */
static size_t lnp_shared_blocks(const lnp_gemm_kernels *kernels, const lnp_product *job,
                                const lnp_chunks *chunks, float *scratch, lnp_row_block *blocks)
{
    const size_t most_rows = lnp_block_rows(lnp_steps(kernels, job->k), chunks->rows);
    size_t chunk = 0, count = 0;
    while (chunk < chunks->count) {
        if (count == LNP_SHARED_BLOCKS) return 0;
        blocks[count].packed = scratch;
        chunk = lnp_next_block(kernels, chunks, chunk, chunks->count, most_rows, &blocks[count]);
        scratch += blocks[count].tiles * lnp_tile_floats(kernels, job->k);
        count++;
    }
    return count;
}

/* Rows of the fullest worker, in per mille of an even share: the cost of dealing whole chunks. */
static size_t lnp_imbalance(const lnp_chunks *chunks, size_t workers)
{
    size_t worker, most = 0;
    for (worker = 0; worker < workers; worker++) {
        const size_t begin = lnp_chunk_near(chunks, chunks->m * worker / workers);
        const size_t end = lnp_chunk_near(chunks, chunks->m * (worker + 1) / workers);
        most = lnp_max(most, lnp_chunk_start(chunks, end) - lnp_chunk_start(chunks, begin));
    }
    return most * workers * 1000 / chunks->m;
}

static void lnp_begin_chunk(const void *context, size_t chunk, size_t worker)
{
    const lnp_rows_work *work = (const lnp_rows_work *)context;
    (void)worker;
    lnp_visit_chunks(work->job, work->job->begin, &work->chunks, chunk, chunk + 1);
}

static void lnp_end_chunk(const void *context, size_t chunk, size_t worker)
{
    const lnp_rows_work *work = (const lnp_rows_work *)context;
    (void)worker;
    lnp_visit_chunks(work->job, work->job->end, &work->chunks, chunk, chunk + 1);
}

/* Packs a tile, counted through all blocks. */
static void lnp_fill_for_all(const void *context, size_t tile, size_t worker)
{
    const lnp_rows_work *work = (const lnp_rows_work *)context;
    const lnp_row_block *block = work->blocks;
    (void)worker;
    while (tile >= block->tiles) tile -= block++->tiles;
    lnp_fill_tile(work->kernels, work->job, block, tile);
}

/* Outputs of one panel and one block; the blocks of a panel follow one another. */
static void lnp_multiply_for_all(const void *context, size_t index, size_t worker)
{
    const lnp_rows_work *work = (const lnp_rows_work *)context;
    (void)worker;
    lnp_multiply_panel(work->kernels, work->job, &work->blocks[index % work->count],
                       index / work->count);
}

/* All pack for all; then the panels are dealt. */
static void lnp_multiply_together(const lnp_rows_work *work, lnp_team *team)
{
    const size_t panels = lnp_ceil_div(work->job->n, work->kernels->columns);
    size_t i, tiles = 0;
    for (i = 0; i < work->count; i++) tiles += work->blocks[i].tiles;
    if (work->job->begin) lnp_team_run(team, lnp_begin_chunk, work, work->chunks.count);
    lnp_team_run(team, lnp_fill_for_all, work, tiles);
    lnp_team_run(team, lnp_multiply_for_all, work, panels * work->count);
    if (work->job->end) lnp_team_run(team, lnp_end_chunk, work, work->chunks.count);
}

/* out = bias + A B, see lnp_product. `scratch`: lnp_product_scratch_floats, 64-byte aligned. Each
 * thread packs its own rows; where whole chunks cannot be dealt evenly (few rows: the late stages
 * of a single image) all pack together. */
static void lnp_multiply_rows(const lnp_gemm_kernels *kernels, const lnp_product *job,
                              float *scratch, lnp_team *team)
{
    const size_t threads = (size_t)team->threads;
    lnp_rows_work work;
    if (!job->m || !job->n) return;
    work.kernels = kernels;
    work.job = job;
    work.chunks = lnp_chunks_of(kernels, job);
    work.scratch = scratch;
    work.count = 0;
    if (kernels->isa == LENSNET_ISA_REFERENCE) {
        lnp_multiply_rows_ref(kernels, job, &work.chunks, scratch);
        return;
    }
    if (job->m <= lnp_shared_rows(job->k, team->threads) &&
        lnp_imbalance(&work.chunks, threads) > 1030)
        work.count = lnp_shared_blocks(kernels, job, &work.chunks, scratch, work.blocks);
    if (work.count) {
        lnp_multiply_together(&work, team);
        return;
    }
    work.shares = lnp_row_shares(&work, threads);
    lnp_team_run(team, lnp_multiply_own_rows, &work, work.shares);
}

/* ---- the gradient of the weights ------------------------------------------------------------- */

/* The workers form a grid over dW: `across` ranges of tiles (rows of dW) times `along` ranges of
 * panels (columns). Each packs what it needs for itself, so that no worker waits for another. */
typedef struct lnp_gradient_grid {
    size_t across, along;
} lnp_gradient_grid;

/* The grid with the least work for the fullest worker: arithmetic and packing per row, in cycles.
 * A panel of X costs more than its size, since a fill may have to make it. */
static lnp_gradient_grid lnp_gradient_grid_of(const lnp_gemm_kernels *kernels, size_t n, size_t k,
                                              size_t workers)
{
    const size_t tile_cycles = kernels->rows, dy_cycles = 6, x_cycles = 24;
    lnp_gradient_grid best = {1, 1};
    size_t least = SIZE_MAX, across;
    for (across = 1; across <= workers; across++) {
        const size_t along = workers / across;
        const size_t tiles = lnp_ceil_div(lnp_ceil_div(n, kernels->rows), across);
        const size_t panels = lnp_ceil_div(lnp_ceil_div(k, kernels->columns), along);
        const size_t cycles = tiles * panels * tile_cycles + tiles * dy_cycles + panels * x_cycles;
        if (cycles < least) {
            least = cycles;
            best.across = across;
            best.along = along;
        }
    }
    return best;
}

/* One worker's part of dW, for one block of steps, which are rows of m or, in bfloat16, as the pairs of
 * rows are packed. dY is packed as [tile of n][step][gradient_step], X, as many panels at a time as stay
 * in the second-level cache, as [panel of k][step][width]; `pitch` steps each, an odd number, so that
 * tiles and panels do not fall into the same sets of the caches. */
typedef struct lnp_gradient_block {
    size_t tiles, first_tile, last_tile; /* n is dealt to `tiles`; the worker's */
    size_t first_panel, last_panel;      /* of k, the worker's */
    size_t first_row, rows, pitch;       /* steps */
    size_t all;                          /* steps of all blocks */
    size_t fetched;                      /* cache lines of the next block that were asked for */
    float *dy, *x;
} lnp_gradient_block;

/* Pairs of rows in a sample, the last of which may lack its second. */
static size_t lnp_segment_pairs(const lnp_gradient_product *job)
{
    return lnp_ceil_div(job->segment_rows, 2);
}

static size_t lnp_gradient_steps(const lnp_gemm_kernels *kernels, const lnp_gradient_product *job)
{
    if (!kernels->bfloat) return job->m;
    return job->m / job->segment_rows * lnp_segment_pairs(job) * 2 / kernels->bfloat->elements;
}

/* Blocks of `steps` are alike, so that the last one is not a thin rest; none cuts a pair. */
static size_t lnp_gradient_rows(size_t steps)
{
    const size_t blocks = lnp_max(1, lnp_ceil_div(steps, LNP_GRADIENT_ROWS));
    return lnp_round_up(lnp_ceil_div(steps, blocks), 2);
}

static size_t lnp_gradient_pitch(size_t steps) { return lnp_gradient_rows(steps) | 1; }

static size_t lnp_gradient_panels(const lnp_gemm_kernels *kernels, size_t steps)
{
    return lnp_max(1, LNP_GRADIENT_FLOATS / (lnp_gradient_pitch(steps) * kernels->columns));
}

/* What a worker packs dY and X into. */
static size_t lnp_gradient_dy_floats(const lnp_gemm_kernels *kernels, size_t steps, size_t n,
                                     size_t across)
{
    const size_t tiles = lnp_ceil_div(lnp_tiles_in(kernels, n), across);
    return lnp_round_up(tiles * lnp_gradient_pitch(steps) * kernels->gradient_step, 16);
}

static size_t lnp_gradient_x_floats(const lnp_gemm_kernels *kernels, size_t steps)
{
    return lnp_round_up(
        lnp_gradient_panels(kernels, steps) * lnp_gradient_pitch(steps) * kernels->columns, 16);
}

/* For m rows or fewer: fewer may mean longer blocks, for blocks are even. */
static size_t lnp_gradient_scratch_floats(const lnp_gemm_kernels *kernels, size_t m, size_t n,
                                          size_t k, int threads)
{
    const lnp_gradient_grid grid = lnp_gradient_grid_of(kernels, n, k, (size_t)threads);
    const size_t longest = lnp_min(kernels->bfloat ? 2 * m : m, LNP_GRADIENT_ROWS);
    const size_t x_floats = lnp_gradient_pitch(longest) * kernels->columns;
    if (kernels->isa == LENSNET_ISA_REFERENCE) return lnp_reference_floats(k);
    return (lnp_gradient_dy_floats(kernels, longest, n, grid.across) +
            lnp_round_up(lnp_max(LNP_GRADIENT_FLOATS, x_floats), 16)) *
           grid.across * grid.along;
}

/* One row of X. */
static void lnp_gradient_row_ref(const lnp_gradient_product *job, float *row, size_t m)
{
    size_t k, done;
    for (k = 0; k < job->k; k += done) {
        done = lnp_min(LNP_COLUMNS_MAX, job->k - k);
        if (job->x_fill)
            job->x_fill(job->x_fill_context, row + k, job->k, m, 1, k, done);
        else
            memcpy(row + k, job->x + m * job->x_stride + k, done * sizeof(float));
    }
}

static void lnp_multiply_gradient_ref(const lnp_gradient_product *job, float *row)
{
    size_t m, n, k;
    for (m = 0; m < job->m; m++) {
        lnp_gradient_row_ref(job, row, m);
        for (n = 0; n < job->n; n++)
            for (k = 0; k < job->k; k++)
                job->dw[n * job->k + k] =
                    lnp_fma(job->dy[m * job->dy_stride + n], row[k], job->dw[n * job->k + k]);
    }
}

/* dW goes on by one pair of rows; `second` is NULL where the sample has no more. */
static void lnp_gradient_pair_ref(const lnp_gradient_product *job, const float *dy_first,
                                  const float *dy_second, const float *first, const float *second)
{
    size_t n, k;
    for (n = 0; n < job->n; n++)
        for (k = 0; k < job->k; k++) {
            const float odd = second ? lnp_bfloat_round(second[k]) : 0.0f;
            const float dy_odd = second ? lnp_bfloat_round(dy_second[n]) : 0.0f;
            float *sum = job->dw + n * job->k + k;
            *sum = lnp_bfloat_fma(dy_odd, odd, *sum);
            *sum = lnp_bfloat_fma(lnp_bfloat_round(dy_first[n]), lnp_bfloat_round(first[k]), *sum);
        }
}

static void lnp_multiply_gradient_bfloat_ref(const lnp_gradient_product *job, float *rows)
{
    float *second = rows + job->k;
    size_t m, length;
    for (m = 0; m < job->m; m += length) {
        const float *dy = job->dy + m * job->dy_stride;
        length = lnp_min(2, job->segment_rows - m % job->segment_rows);
        lnp_gradient_row_ref(job, rows, m);
        if (length == 2) lnp_gradient_row_ref(job, second, m + 1);
        lnp_gradient_pair_ref(job, dy, dy + job->dy_stride, rows, length == 2 ? second : NULL);
    }
}

/* A pair of rows of m. */
typedef struct lnp_row_pair {
    size_t first;
    int both;
} lnp_row_pair;

static lnp_row_pair lnp_row_pair_at(const lnp_gradient_product *job, size_t pair)
{
    const size_t in_segment = lnp_segment_pairs(job), position = pair % in_segment * 2;
    lnp_row_pair rows;
    rows.first = pair / in_segment * job->segment_rows + position;
    rows.both = position + 1 < job->segment_rows;
    return rows;
}

static void lnp_gradient_pack_dy_bfloat(const lnp_gemm_kernels *kernels,
                                        const lnp_gradient_product *job,
                                        const lnp_gradient_block *block)
{
    const size_t step = kernels->gradient_step, steps = 2 / kernels->bfloat->elements;
    const size_t all_longer = job->n % block->tiles;
    const size_t longer = lnp_max(all_longer, block->first_tile) - block->first_tile;
    const size_t tiles = block->last_tile - block->first_tile;
    const size_t column = lnp_share_start(job->n, block->tiles, block->first_tile);
    size_t i;
    for (i = 0; i < block->rows; i += steps) {
        const lnp_row_pair pair = lnp_row_pair_at(job, (block->first_row + i) / steps);
        const float *dy = job->dy + pair.first * job->dy_stride + column;
        kernels->bfloat->deal_pair(block->dy + i * step, block->pitch * step, step, dy,
                                   pair.both ? dy + job->dy_stride : NULL, tiles,
                                   job->n / block->tiles, lnp_min(longer, tiles));
    }
}

/* Rows of X for `count` pairs from `pair` on, one panel. */
static void lnp_gradient_pack_pairs(const lnp_gemm_kernels *kernels,
                                    const lnp_gradient_product *job, float *packed, size_t pair,
                                    size_t count, size_t column)
{
    const size_t width = lnp_panel_width(kernels, job->k, column);
    const size_t columns = lnp_min(width, job->k - column);
    const lnp_row_pair last = lnp_row_pair_at(job, pair + count - 1);
    const size_t first_row = lnp_row_pair_at(job, pair).first;
    const size_t stride = job->x_fill ? LNP_COLUMNS_MAX : job->x_stride;
    float filled[2 * LNP_GRADIENT_GROUP * LNP_COLUMNS_MAX];
    const float *x = filled;
    size_t i;
    if (job->x_fill)
        job->x_fill(job->x_fill_context, filled, stride, first_row,
                    last.first + (last.both ? 2 : 1) - first_row, column, columns);
    else
        x = job->x + first_row * stride + column;
    for (i = 0; i < count; i++, packed += 2 / kernels->bfloat->elements * width) {
        const lnp_row_pair rows = lnp_row_pair_at(job, pair + i);
        const float *row = x + (rows.first - first_row) * stride;
        kernels->bfloat->deal_pair(packed, 0, width, row, rows.both ? row + stride : NULL, 1,
                                   columns, 0);
    }
}

static void lnp_gradient_pack_x_bfloat(const lnp_gemm_kernels *kernels,
                                       const lnp_gradient_product *job,
                                       const lnp_gradient_block *block, size_t first_panel,
                                       size_t panels)
{
    const size_t steps = 2 / kernels->bfloat->elements, pairs = block->rows / steps;
    size_t first, panel;
    for (first = 0; first < pairs; first += LNP_GRADIENT_GROUP)
        for (panel = 0; panel < panels; panel++) {
            const size_t column = (first_panel + panel) * kernels->columns;
            const size_t width = lnp_panel_width(kernels, job->k, column);
            lnp_gradient_pack_pairs(kernels, job,
                                    block->x + panel * block->pitch * kernels->columns +
                                        first * steps * width,
                                    block->first_row / steps + first,
                                    lnp_min(LNP_GRADIENT_GROUP, pairs - first), column);
        }
}

/* Packs the worker's tiles of dY for this block. */
static void lnp_gradient_pack_dy(const lnp_gemm_kernels *kernels, const lnp_gradient_product *job,
                                 const lnp_gradient_block *block)
{
    const size_t step = kernels->gradient_step, all_longer = job->n % block->tiles;
    const size_t longer = lnp_max(all_longer, block->first_tile) - block->first_tile;
    const size_t tiles = block->last_tile - block->first_tile;
    const float *dy = job->dy + block->first_row * job->dy_stride +
                      lnp_share_start(job->n, block->tiles, block->first_tile);
    size_t row;
    if (kernels->bfloat) {
        lnp_gradient_pack_dy_bfloat(kernels, job, block);
        return;
    }
    for (row = 0; row < block->rows; row += LNP_GRADIENT_GROUP)
        kernels->deal(block->dy + row * step, block->pitch * step, step, dy + row * job->dy_stride,
                      job->dy_stride, lnp_min(LNP_GRADIENT_GROUP, block->rows - row), tiles,
                      job->n / block->tiles, lnp_min(longer, tiles));
}

/* Packs panels of X for this block. */
static void lnp_gradient_pack_x(const lnp_gemm_kernels *kernels, const lnp_gradient_product *job,
                                const lnp_gradient_block *block, size_t first_panel, size_t panels)
{
    size_t first, panel;
    if (kernels->bfloat) {
        lnp_gradient_pack_x_bfloat(kernels, job, block, first_panel, panels);
        return;
    }
    for (first = 0; first < block->rows; first += LNP_GRADIENT_GROUP) {
        const size_t rows = lnp_min(LNP_GRADIENT_GROUP, block->rows - first);
        const size_t row = block->first_row + first;
        for (panel = 0; panel < panels; panel++) {
            const size_t column = (first_panel + panel) * kernels->columns;
            const size_t width = lnp_panel_width(kernels, job->k, column);
            const size_t count = lnp_min(width, job->k - column);
            float *packed = block->x + panel * block->pitch * kernels->columns + first * width;
            if (!job->x_fill) {
                kernels->deal(packed, 0, width, job->x + row * job->x_stride + column,
                              job->x_stride, rows, 1, count, 0);
                continue;
            }
            if (count < width) memset(packed, 0, rows * width * sizeof(float));
            job->x_fill(job->x_fill_context, packed, width, row, rows, column, count);
        }
    }
}

/* While the tiles of this block are computed, dY and X of the next one are fetched: each tile takes
 * so many cache lines as it has steps. From 71 to 78 % of the limit for the largest m, where dY and
 * X come from memory, at the price of up to 2 points for the smallest. */
static const float *lnp_gradient_ahead(const lnp_gemm_kernels *kernels,
                                       const lnp_gradient_product *job, lnp_gradient_block *block)
{
    const size_t elements = kernels->bfloat ? kernels->bfloat->elements : 1;
    const size_t row = (block->first_row + block->rows) * elements;
    const size_t rows = block->rows * elements, dy_floats = rows * job->dy_stride;
    size_t offset = block->fetched * 16;
    block->fetched += block->rows;
    if (row >= job->m) return job->dy;
    if (offset < dy_floats) return job->dy + row * job->dy_stride + offset;
    offset -= dy_floats;
    if (job->x && offset < rows * job->x_stride) return job->x + row * job->x_stride + offset;
    return job->dy;
}

/* The outputs of one tile of dY and the packed panels, which are neighbours in memory. */
static void lnp_gradient_tiles(const lnp_gemm_kernels *kernels, const lnp_gradient_product *job,
                               lnp_gradient_block *block, size_t t, size_t first_panel,
                               size_t panels)
{
    const size_t n = lnp_share_start(job->n, block->tiles, t);
    lnp_tile_call call;
    size_t panel;
    call.rows = lnp_share_start(job->n, block->tiles, t + 1) - n;
    call.a = block->dy + (t - block->first_tile) * block->pitch * kernels->gradient_step;
    call.steps = block->rows;
    call.start = NULL;
    call.c_stride = job->k;
    call.row_step = 1;
    call.k_step = kernels->gradient_step;
    for (panel = 0; panel < panels; panel++) {
        const size_t column = (first_panel + panel) * kernels->columns;
        const size_t width = lnp_panel_width(kernels, job->k, column);
        call.width = width;
        call.tile = kernels->gradient[width / kernels->lanes - 1][call.rows - 1];
        call.ahead = lnp_gradient_ahead(kernels, job, block);
        call.b = block->x + panel * block->pitch * kernels->columns;
        call.c = job->dw + n * job->k + column;
        lnp_run_tile(kernels, &call, lnp_min(width, job->k - column));
    }
}

static void lnp_gradient_multiply_block(const lnp_gemm_kernels *kernels,
                                        const lnp_gradient_product *job, lnp_gradient_block *block)
{
    const size_t at_once = lnp_gradient_panels(kernels, block->all);
    size_t panel, t;
    lnp_gradient_pack_dy(kernels, job, block);
    for (panel = block->first_panel; panel < block->last_panel; panel += at_once) {
        const size_t panels = lnp_min(at_once, block->last_panel - panel);
        lnp_gradient_pack_x(kernels, job, block, panel, panels);
        for (t = block->first_tile; t < block->last_tile; t++)
            lnp_gradient_tiles(kernels, job, block, t, panel, panels);
    }
}

typedef struct lnp_gradient_work {
    const lnp_gemm_kernels *kernels;
    const lnp_gradient_product *job;
    float *scratch;
    lnp_gradient_grid grid;
} lnp_gradient_work;

/* One cell of the grid, with the scratch of that cell. */
static void lnp_gradient_cell(const void *context, size_t cell, size_t worker)
{
    const lnp_gradient_work *work = (const lnp_gradient_work *)context;
    const lnp_gemm_kernels *kernels = work->kernels;
    const lnp_gradient_product *job = work->job;
    const lnp_gradient_grid *grid = &work->grid;
    const size_t steps = lnp_gradient_steps(kernels, job);
    const size_t dy_floats = lnp_gradient_dy_floats(kernels, steps, job->n, grid->across);
    const size_t x_floats = lnp_gradient_x_floats(kernels, steps);
    const size_t panels = lnp_ceil_div(job->k, kernels->columns);
    const size_t i = cell / grid->along, j = cell % grid->along;
    lnp_gradient_block block;
    (void)worker;
    block.tiles = lnp_tiles_in(kernels, job->n);
    block.first_tile = lnp_share_start(block.tiles, grid->across, i);
    block.last_tile = lnp_share_start(block.tiles, grid->across, i + 1);
    block.first_panel = lnp_share_start(panels, grid->along, j);
    block.last_panel = lnp_share_start(panels, grid->along, j + 1);
    block.all = steps;
    block.pitch = lnp_gradient_pitch(steps);
    block.dy = work->scratch + cell * (dy_floats + x_floats);
    block.x = block.dy + dy_floats;
    for (block.first_row = 0; block.first_row < steps; block.first_row += block.rows) {
        block.rows = lnp_min(lnp_gradient_rows(steps), steps - block.first_row);
        block.fetched = 0;
        lnp_gradient_multiply_block(kernels, job, &block);
    }
}

/* dw += dY^T X, see lnp_gradient_product. `scratch`: lnp_gradient_scratch_floats, 64-byte
 * aligned. */
static void lnp_multiply_gradient(const lnp_gemm_kernels *kernels, const lnp_gradient_product *job,
                                  float *scratch, lnp_team *team)
{
    lnp_gradient_work work;
    if (!job->m || !job->n || !job->k) return;
    if (kernels->isa == LENSNET_ISA_REFERENCE) {
        (kernels->bfloat ? lnp_multiply_gradient_bfloat_ref : lnp_multiply_gradient_ref)(job,
                                                                                         scratch);
        return;
    }
    work.kernels = kernels;
    work.job = job;
    work.scratch = scratch;
    work.grid = lnp_gradient_grid_of(kernels, job->n, job->k, (size_t)team->threads);
    lnp_team_run(team, lnp_gradient_cell, &work, work.grid.across * work.grid.along);
}
/* =================================================================================================
 * >>depthwise  Direct depthwise convolution, NHWC, filters of 3 x 3, 5 x 5 and 7 x 7, stride 1 or 2,
 * any zero padding below the size: forward, input gradient, weight gradient. Each output is one FMA
 * chain over the taps (u, v) in row-major order that begins with the bias; each input gradient one over
 * the outputs that the pixel met, in row-major order, that begins with zero. The gradient of a weight is
 * one FMA chain over (y, x) in every band of 14 output rows of a sample, begun at zero, that of a bias
 * one sum; the bands are added in order to what stands in the buffer. Taps outside the image are
 * skipped. Threads share outputs or bands, never a chain. Nothing here allocates.
 *
 * A forward tile is up to 16 output pixels of one row (8 with the 16 registers of AVX2) times one
 * vector of channels. Its sums and the 7 weights of one filter row stay in registers, 24 of 32; each
 * pixel of an image row is loaded once and meets up to 7 sums, so that 16 pixels take 29 loads for
 * 112 FMAs. A row is cut into tiles of one width, of which the last may overlap its neighbour. Tiles go
 * down the image, so that six of the seven rows of 22 pixels that one needs are in L1 already; borders
 * are pixels left out, not a padded copy. The input gradient is a convolution of dY with the filter
 * turned round; with stride 2 it is four, one for the even and odd rows and columns, each with its
 * part of the filter.
 * The weight gradient holds the 14 sums of two filter rows (7 of one on AVX2) over an output row,
 * and, with stride 1, a window of 7 pixels of the image for each.
 * Of the FMA limit on Zen 5 (gcc 12, 56x56x96, 28x28x192, 14x14x384, 7x7x768; taps inside the image):
 * forward with the norm's sums 72 75 67 55, input gradient 88 87 77 65, weight gradient 74 66 42 16 %,
 * the last for its turning between layouts; AVX2 71 67 66 60, 82 77 78 74, 76 74 63 27.
 * ============================================================================================== */

#define LNP_TAPS ((size_t)49) /* of the largest filter */

static ptrdiff_t lnp_least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

typedef struct lnp_depthwise_geometry {
    size_t size, stride, padding; /* of the filter */
    size_t h, w, c;               /* of the input */
    size_t out_h, out_w;
} lnp_depthwise_geometry;

static int lnp_depthwise_has(size_t size, size_t stride, size_t padding)
{
    return (size == 3 || size == 5 || size == 7) && (stride == 1 || stride == 2) && padding < size;
}

/* Where it is wanted, h + 2 padding >= size. */
static lnp_depthwise_geometry lnp_depthwise_geometry_of(size_t size, size_t stride, size_t padding,
                                                        size_t h, size_t w, size_t c)
{
    lnp_depthwise_geometry s;
    s.size = size;
    s.stride = stride;
    s.padding = padding;
    s.h = h;
    s.w = w;
    s.c = c;
    s.out_h = (h + 2 * padding - size) / stride + 1;
    s.out_w = (w + 2 * padding - size) / stride + 1;
    return s;
}

/* One convolution in the strict sense: output (i, j) = sum over u < rows, v < taps of weight (u, v) times
 * input (i * stride + u + top, j * stride + v + left). The stride belongs to the kernel that runs it. */
typedef struct lnp_depthwise_pass {
    size_t rows, taps; /* of the filter, or of its part */
    ptrdiff_t top, left;
    size_t in_h, in_w, c;
    size_t out_h, out_w;
    size_t pixel, line; /* floats from an output to the next one of its row, of its column */
    size_t first;       /* floats in front of output (0, 0) */
    size_t weights;     /* floats in front of its weights, [u][v][16] */
} lnp_depthwise_pass;

/* Outputs x0..x0+width of rows y0..y1 of a pass for one vector of channels, at which out, bias (may be
 * NULL), in (a sample) and weights stand. */
typedef void lnp_depthwise_forward_fn(float *out, const float *bias, const float *in,
                                      const float *weights, const lnp_depthwise_pass *pass,
                                      size_t x0, size_t width, size_t y0, size_t y1);

/* Continues the chains dk[tap][16] of one vector of channels over output row y of one sample; dk, dy
 * and in (samples) are at the channel. */
typedef void lnp_depthwise_gradient_fn(float *dk, const float *dy, const float *in,
                                       const lnp_depthwise_geometry *shape, size_t y);

/* Filter rows that a pass may have, FILTER(taps, stride), the whole ones last. */
/* clang-format off */
#define LNP_WHOLE_FILTERS(FILTER, isa)                                                             \
    FILTER(3, 1, isa) FILTER(5, 1, isa) FILTER(7, 1, isa)                                          \
    FILTER(3, 2, isa) FILTER(5, 2, isa) FILTER(7, 2, isa)
#define LNP_FILTERS(FILTER, isa)                                                                   \
    FILTER(1, 1, isa) FILTER(2, 1, isa) FILTER(4, 1, isa) LNP_WHOLE_FILTERS(FILTER, isa)
/* clang-format on */
#define LNP_FILTER_COUNT 9
#define LNP_FILTER_PARTS 3 /* the first of them have no weight gradient */

/* The place of a filter row in the lists. */
static size_t lnp_filter_index(size_t taps, size_t stride)
{
#define LNP_FILTER_TAPS(taps, stride, isa) 2 * taps + stride,
    static const unsigned char filters[] = {LNP_FILTERS(LNP_FILTER_TAPS, unused)};
#undef LNP_FILTER_TAPS
    size_t i = 0;
    while (i + 1 < LNP_FILTER_COUNT && filters[i] != 2 * taps + stride) i++;
    return i;
}

/* Kernels for `lanes` channels at once; a table holds them from wide to narrow, down to 1, so that
 * any number of channels is a few wide vectors and a narrower rest. */
typedef struct lnp_depthwise_level { /* NULL: left to the next level */
    size_t lanes, widest;            /* widest: pixels of a tile */
    lnp_depthwise_forward_fn *forward[LNP_FILTER_COUNT];
    lnp_depthwise_gradient_fn *gradient[LNP_FILTER_COUNT - LNP_FILTER_PARTS];
} lnp_depthwise_level;

typedef struct lnp_depthwise_kernels {
    const lnp_depthwise_level *level[3];
} lnp_depthwise_kernels;

/* -- passes ----------------------------------------------------------------------------------- */

static lnp_depthwise_pass lnp_depthwise_forward_pass(const lnp_depthwise_geometry *s)
{
    lnp_depthwise_pass pass;
    pass.rows = pass.taps = s->size;
    pass.top = pass.left = -(ptrdiff_t)s->padding;
    pass.in_h = s->h;
    pass.in_w = s->w;
    pass.c = s->c;
    pass.out_h = s->out_h;
    pass.out_w = s->out_w;
    pass.pixel = s->c;
    pass.line = s->out_w * s->c;
    pass.first = pass.weights = 0;
    return pass;
}

/* Along one axis, what the input gradient has of class `odd` < stride: taps odd, odd + stride, ... of the
 * filter meet the inputs first, first + stride, ... */
typedef struct lnp_depthwise_class {
    size_t taps, first, count; /* count: of the inputs */
    ptrdiff_t start;           /* the output that the last of these taps met at input `first` */
} lnp_depthwise_class;

static lnp_depthwise_class lnp_depthwise_class_of(const lnp_depthwise_geometry *s, size_t odd,
                                                  size_t inputs)
{
    lnp_depthwise_class k;
    k.taps = lnp_ceil_div(s->size - odd, s->stride);
    k.first = (odd + s->stride - s->padding % s->stride) % s->stride;
    k.count = inputs > k.first ? lnp_ceil_div(inputs - k.first, s->stride) : 0;
    k.start = ((ptrdiff_t)(k.first + s->padding) - (ptrdiff_t)odd) / (ptrdiff_t)s->stride -
              (ptrdiff_t)(k.taps - 1);
    return k;
}

/* The input gradient of one class of rows and one of columns, as a convolution of dY. */
static lnp_depthwise_pass lnp_depthwise_backward_pass(const lnp_depthwise_geometry *s,
                                                      size_t odd_row, size_t odd_column)
{
    const lnp_depthwise_class rows = lnp_depthwise_class_of(s, odd_row, s->h);
    const lnp_depthwise_class columns = lnp_depthwise_class_of(s, odd_column, s->w);
    const size_t before = lnp_ceil_div(s->size, s->stride); /* taps of class 0 */
    lnp_depthwise_pass pass;
    pass.rows = rows.taps;
    pass.taps = columns.taps;
    pass.top = rows.start;
    pass.left = columns.start;
    pass.in_h = s->out_h;
    pass.in_w = s->out_w;
    pass.c = s->c;
    pass.out_h = rows.count;
    pass.out_w = columns.count;
    pass.pixel = s->stride * s->c;
    pass.line = s->stride * s->w * s->c;
    pass.first = (rows.first * s->w + columns.first) * s->c;
    pass.weights = 16 * (odd_row * before * s->size + odd_column * rows.taps * before);
    return pass;
}

/* -- packed weights: [c / 16][pass][u][v][16], zero padded ------------------------------------ */

static size_t lnp_depthwise_packed_floats(size_t size, size_t c)
{
    return lnp_round_up(c, 16) * size * size;
}

/* Channels first..first+16 of `weight` (C,1,size,size): taps (row, column), (row, column + step), ...,
 * or, backwards, from the last such tap to it. Returns where the next part begins. */
static float *lnp_depthwise_pack_part(float *part, const float *weight, size_t size, size_t c,
                                      size_t first, size_t row, size_t column, size_t step,
                                      int backwards)
{
    const size_t rows = lnp_ceil_div(size - row, step), taps = lnp_ceil_div(size - column, step);
    size_t u, v, l;
    for (u = 0; u < rows; u++)
        for (v = 0; v < taps; v++) {
            const size_t from_u = row + step * (backwards ? rows - 1 - u : u);
            const size_t from_v = column + step * (backwards ? taps - 1 - v : v);
            const float *from = weight + first * size * size + from_u * size + from_v;
            for (l = 0; l < 16; l++) *part++ = first + l < c ? from[l * size * size] : 0.0f;
        }
    return part;
}

/* Channels first..first+16, in the order of the passes. `stride` counts for the input gradient only. */
static void lnp_depthwise_pack_group(float *group, const float *weight, size_t size, size_t stride,
                                     size_t c, size_t first, int backward)
{
    const size_t step = backward ? stride : 1;
    size_t row, column;
    for (row = 0; row < step; row++)
        for (column = 0; column < step; column++)
            group =
                lnp_depthwise_pack_part(group, weight, size, c, first, row, column, step, backward);
}

typedef struct lnp_depthwise_packing {
    float *packed;
    const float *weight;
    size_t size, stride, c;
    int backward;
} lnp_depthwise_packing;

static void lnp_depthwise_pack_task(const void *context, size_t group, size_t worker)
{
    const lnp_depthwise_packing *p = (const lnp_depthwise_packing *)context;
    (void)worker;
    lnp_depthwise_pack_group(p->packed + group * 16 * p->size * p->size, p->weight, p->size,
                             p->stride, p->c, group * 16, p->backward);
}

/* From weight (C,1,size,size), as PyTorch has it: for lnp_depthwise_forward, or `backward` for
 * lnp_depthwise_input_gradient with this stride. */
static void lnp_depthwise_pack(float *packed, const float *weight, size_t size, size_t stride,
                               size_t c, int backward, lnp_team *team)
{
    lnp_depthwise_packing p;
    p.packed = packed;
    p.weight = weight;
    p.size = size;
    p.stride = stride;
    p.c = c;
    p.backward = backward;
    lnp_team_run(team, lnp_depthwise_pack_task, &p, lnp_ceil_div(c, 16));
}

/* -- reference -------------------------------------------------------------------------------- */

static float lnp_depthwise_ref_value(float sum, const float *in, const float *weights,
                                     const lnp_depthwise_pass *p, ptrdiff_t top, ptrdiff_t left)
{
    size_t u, v;
    for (u = 0; u < p->rows; u++)
        for (v = 0; v < p->taps; v++) {
            const ptrdiff_t y = top + (ptrdiff_t)u, x = left + (ptrdiff_t)v;
            if (y >= 0 && y < (ptrdiff_t)p->in_h && x >= 0 && x < (ptrdiff_t)p->in_w)
                sum = lnp_fma(weights[(u * p->taps + v) * 16],
                              in[((size_t)y * p->in_w + (size_t)x) * p->c], sum);
        }
    return sum;
}

static void lnp_depthwise_forward_ref(float *out, const float *bias, const float *in,
                                      const float *weights, const lnp_depthwise_pass *p,
                                      size_t stride, size_t x0, size_t width, size_t y0, size_t y1)
{
    size_t y, x;
    for (y = y0; y < y1; y++)
        for (x = x0; x < x0 + width; x++)
            out[p->first + y * p->line + x * p->pixel] = lnp_depthwise_ref_value(
                bias ? *bias : 0.0f, in, weights, p, (ptrdiff_t)(y * stride) + p->top,
                (ptrdiff_t)(x * stride) + p->left);
}

#define LNP_DEPTHWISE_FORWARD_REF(taps, stride, isa)                                               \
    static void lnp_depthwise_forward_##taps##_##stride##_ref(                                     \
        float *out, const float *bias, const float *in, const float *weights,                      \
        const lnp_depthwise_pass *pass, size_t x0, size_t width, size_t y0, size_t y1)             \
    {                                                                                              \
        lnp_depthwise_forward_ref(out, bias, in, weights, pass, stride, x0, width, y0, y1);        \
    }
LNP_FILTERS(LNP_DEPTHWISE_FORWARD_REF, ref)
#undef LNP_DEPTHWISE_FORWARD_REF

static void lnp_depthwise_gradient_ref(float *dk, const float *dy, const float *in,
                                       const lnp_depthwise_geometry *s, size_t y)
{
    size_t u, v, x;
    for (u = 0; u < s->size; u++)
        for (v = 0; v < s->size; v++)
            for (x = 0; x < s->out_w; x++) {
                const size_t row = y * s->stride + u, column = x * s->stride + v;
                float *sum = dk + (u * s->size + v) * 16;
                if (row >= s->padding && row - s->padding < s->h && column >= s->padding &&
                    column - s->padding < s->w)
                    *sum =
                        lnp_fma(dy[(y * s->out_w + x) * s->c],
                                in[((row - s->padding) * s->w + column - s->padding) * s->c], *sum);
            }
}

#define LNP_FORWARD_ENTRY(taps, stride, isa)  lnp_depthwise_forward_##taps##_##stride##_##isa,
#define LNP_GRADIENT_ENTRY(size, stride, isa) lnp_depthwise_gradient_##size##_##stride##_##isa,

static const lnp_depthwise_level lnp_depthwise_reference = {
    1,
    1024,
    {LNP_FILTERS(LNP_FORWARD_ENTRY, ref)},
    {lnp_depthwise_gradient_ref, lnp_depthwise_gradient_ref, lnp_depthwise_gradient_ref,
     lnp_depthwise_gradient_ref, lnp_depthwise_gradient_ref, lnp_depthwise_gradient_ref}};

/* -- tiles ------------------------------------------------------------------------------------ */

/* Bit i: there are tiles of i pixels. The filter of ConvNeXt has one for every map that 224 and 256
 * pixels come to; the others have few, for each is code to compile. */
LNP_INLINE uint32_t lnp_depthwise_widths(size_t taps, size_t stride, size_t widest)
{
    const uint32_t all = taps == 7 && stride == 1 ? 0x1419eu : 0x112u;
    return all & (((uint32_t)2 << widest) - 1u);
}

/* The width of tiles for a row of w outputs: the least that is no less than an even share, else the
 * largest that fits. */
static size_t lnp_depthwise_width(size_t taps, size_t stride, size_t widest, size_t w)
{
    const uint32_t widths = lnp_depthwise_widths(taps, stride, lnp_min(widest, 16));
    const size_t share = lnp_ceil_div(w, lnp_ceil_div(w, lnp_min(widest, 16)));
    size_t width = share;
    if (widest > 16) return w; /* the plain twin */
    while (width <= w && width <= widest && !(widths >> width & 1u)) width++;
    if (width <= w && width <= widest) return width;
    for (width = share; !(widths >> width & 1u);) width--;
    return width;
}

#if LNP_VECTORS

/* Bit p: pixel first + p lies in a row of w pixels. */
LNP_INLINE uint32_t lnp_depthwise_inside(ptrdiff_t first, size_t pixels, size_t w)
{
    uint32_t bits = 0;
    size_t p;
    for (p = 0; p < pixels; p++)
        if (first + (ptrdiff_t)p >= 0 && first + (ptrdiff_t)p < (ptrdiff_t)w)
            bits |= (uint32_t)1 << p;
    return bits;
}

/* One row of the filter meets one of the image, of which `row` is the pixel of tap 0 at the first
 * output. Pixel p meets output (p - v) / stride under tap v. */
LNP_INLINE void lnp_depthwise_row(lensnet_isa isa, int taps, int stride, int width, lnp_vector *sum,
                                  const float *weights, const float *row, size_t step,
                                  uint32_t inside)
{
    lnp_vector weight[7];
    int p, v;
    LNP_UNROLL
    for (v = 0; v < taps; v++) weight[v] = lnp_load(isa, weights + v * 16);
    LNP_UNROLL
    for (p = 0; p < (width - 1) * stride + taps; p++, row += step)
        if (inside >> p & 1u) {
            const lnp_vector pixel = lnp_load(isa, row);
            LNP_UNROLL
            for (v = 0; v < taps; v++)
                if (p >= v && (p - v) % stride == 0 && (p - v) / stride < width)
                    lnp_multiply_add(isa, &sum[(p - v) / stride], weight[v], pixel);
        }
}

/* `width` outputs of rows y0..y1: see lnp_depthwise_forward_fn. */
LNP_INLINE void lnp_depthwise_tile(lensnet_isa isa, int taps, int stride, int width, float *out,
                                   const float *bias, const float *in, const float *weights,
                                   const lnp_depthwise_pass *pass, size_t x0, size_t y0, size_t y1)
{
    const ptrdiff_t left = (ptrdiff_t)x0 * stride + pass->left;
    const size_t pixels = (size_t)((width - 1) * stride + taps);
    const uint32_t inside = lnp_depthwise_inside(left, pixels, pass->in_w);
    static const float zeros[16] = {0.0f};
    size_t y;
    int t;
    out += pass->first + y0 * pass->line + x0 * pass->pixel;
    for (y = y0; y < y1; y++, out += pass->line) {
        const ptrdiff_t top = (ptrdiff_t)y * stride + pass->top;
        const ptrdiff_t end = lnp_least((ptrdiff_t)pass->rows, (ptrdiff_t)pass->in_h - top);
        ptrdiff_t u = top < 0 ? -top : 0;
        lnp_vector sum[16];
        LNP_UNROLL
        for (t = 0; t < width; t++) sum[t] = lnp_load(isa, bias ? bias : zeros);
        for (; u < end; u++)
            lnp_depthwise_row(isa, taps, stride, width, sum, weights + u * taps * 16,
                              in + ((top + u) * (ptrdiff_t)pass->in_w + left) * (ptrdiff_t)pass->c,
                              pass->c, inside);
        LNP_UNROLL
        for (t = 0; t < width; t++) lnp_store(isa, out + (size_t)t * pass->pixel, sum[t]);
    }
}

/* The tile of a width, if there is one. */
#define LNP_DEPTHWISE_CASE(pixels)                                                                 \
    case pixels:                                                                                   \
        if (lnp_depthwise_widths((size_t)taps, (size_t)stride, widest) >> pixels & 1u)             \
            lnp_depthwise_tile(isa, taps, stride, pixels, out, bias, in, weights, pass, x0, y0,    \
                               y1);                                                                \
        break;

LNP_INLINE void lnp_depthwise_tiles(lensnet_isa isa, int taps, int stride, size_t widest,
                                    float *out, const float *bias, const float *in,
                                    const float *weights, const lnp_depthwise_pass *pass, size_t x0,
                                    size_t width, size_t y0, size_t y1)
{
    switch (width) {
        LNP_DEPTHWISE_CASE(1)
        LNP_DEPTHWISE_CASE(2)
        LNP_DEPTHWISE_CASE(3)
        LNP_DEPTHWISE_CASE(4)
        LNP_DEPTHWISE_CASE(7)
        LNP_DEPTHWISE_CASE(8)
        LNP_DEPTHWISE_CASE(14)
        LNP_DEPTHWISE_CASE(16)
    }
}
#undef LNP_DEPTHWISE_CASE

/* -- the weights' gradient over one output row ------------------------------------------------- */

/* One output for taps low..high of one filter row, or of two, `next` floats apart in the image; `in` is
 * at tap 0. */
LNP_INLINE void lnp_depthwise_step(lensnet_isa isa, int size, int two, lnp_vector *sum,
                                   const float *dy, const float *in, ptrdiff_t step, ptrdiff_t next,
                                   int low, int high)
{
    const lnp_vector g = lnp_load(isa, dy);
    int v;
    LNP_UNROLL
    for (v = 0; v < size; v++)
        if (v >= low && v < high) {
            lnp_multiply_add(isa, &sum[v], g, lnp_load(isa, in + v * step));
            if (two) lnp_multiply_add(isa, &sum[size + v], g, lnp_load(isa, in + next + v * step));
        }
    LNP_IN_ORDER(); /* else loads are carried over to the next output, for which no register is left */
}

/* `size` outputs in turn, whose taps are all inside, with stride 1: each pixel of the image is loaded
 * once and waits in window[pixel % size] for its taps. `sum` and `window` hold two filter rows. */
LNP_INLINE void lnp_depthwise_turn(lensnet_isa isa, int size, int two, lnp_vector *sum,
                                   lnp_vector *window, const float *dy, const float *in,
                                   ptrdiff_t step, ptrdiff_t next)
{
    int k, v;
    LNP_UNROLL
    for (k = 0; k < size; k++, dy += step, in += step) {
        const lnp_vector g = lnp_load(isa, dy);
        const int last = (k + size - 1) % size;
        window[last] = lnp_load(isa, in + (size - 1) * step);
        if (two) window[size + last] = lnp_load(isa, in + next + (size - 1) * step);
        LNP_UNROLL
        for (v = 0; v < size; v++) {
            lnp_multiply_add(isa, &sum[v], g, window[(k + v) % size]);
            if (two) lnp_multiply_add(isa, &sum[size + v], g, window[size + (k + v) % size]);
        }
    }
}

/* The outputs whose taps are all inside, stride 1; returns how many there were. */
LNP_INLINE size_t lnp_depthwise_interior(lensnet_isa isa, int size, int two, lnp_vector *sum,
                                         const float *dy, const float *in, ptrdiff_t step,
                                         ptrdiff_t next, size_t outputs)
{
    size_t x = 0;
    int v;
    if (outputs >= (size_t)size) {
        lnp_vector window[14];
        LNP_UNROLL
        for (v = 0; v < size - 1; v++) {
            window[v] = lnp_load(isa, in + v * step);
            if (two) window[size + v] = lnp_load(isa, in + next + v * step);
        }
        for (; x + (size_t)size <= outputs; x += (size_t)size, dy += size * step, in += size * step)
            lnp_depthwise_turn(isa, size, two, sum, window, dy, in, step, next);
    }
    for (; x < outputs; x++, dy += step, in += step)
        lnp_depthwise_step(isa, size, two, sum, dy, in, step, next, 0, size);
    return x;
}

/* Any stride, padding and width: every output asks which taps are inside. */
LNP_INLINE void lnp_depthwise_any_row(lensnet_isa isa, int size, int stride, int two,
                                      lnp_vector *sum, const float *dy, const float *in,
                                      ptrdiff_t next, const lnp_depthwise_geometry *s)
{
    const ptrdiff_t step = (ptrdiff_t)s->c;
    ptrdiff_t x = -(ptrdiff_t)s->padding;
    size_t i;
    for (i = 0; i < s->out_w; i++, x += stride, dy += step) {
        const ptrdiff_t left = (ptrdiff_t)s->w - x;
        if (x >= 0 && left >= size)
            lnp_depthwise_step(isa, size, two, sum, dy, in + x * step, step, next, 0, size);
        else
            lnp_depthwise_step(isa, size, two, sum, dy, in + x * step, step, next,
                               x < 0 ? (int)-x : 0, left < size ? (int)left : size);
    }
}

/* Taps of one filter row (or of two) over one output row; dk at tap 0, dy and in at pixel 0. */
LNP_INLINE void lnp_depthwise_gradient_row(lensnet_isa isa, int size, int stride, int two,
                                           float *dk, const float *dy, const float *in,
                                           const lnp_depthwise_geometry *s)
{
    const ptrdiff_t step = (ptrdiff_t)s->c, next = (ptrdiff_t)(s->w * s->c);
    const int half = size / 2, count = two ? 2 * size : size;
    lnp_vector sum[14];
    int v;
    LNP_UNROLL
    for (v = 0; v < count; v++) sum[v] = lnp_load(isa, dk + v * 16);
    if (stride == 1 && s->padding == (size_t)half && s->w >= (size_t)size - 1) {
        size_t inside;
        in -= half * step;
        LNP_UNROLL
        for (v = half; v > 0; v--, dy += step, in += step)
            lnp_depthwise_step(isa, size, two, sum, dy, in, step, next, v, size);
        inside = lnp_depthwise_interior(isa, size, two, sum, dy, in, step, next,
                                        s->w - (size_t)size + 1);
        dy += (ptrdiff_t)inside * step;
        in += (ptrdiff_t)inside * step;
        LNP_UNROLL
        for (v = size - 1; v > half; v--, dy += step, in += step)
            lnp_depthwise_step(isa, size, two, sum, dy, in, step, next, 0, v);
    } else {
        lnp_depthwise_any_row(isa, size, stride, two, sum, dy, in, next, s);
    }
    LNP_UNROLL
    for (v = 0; v < count; v++) lnp_store(isa, dk + v * 16, sum[v]);
}

/* See lnp_depthwise_gradient_fn; `pairs`: there are registers for two filter rows. */
LNP_INLINE void lnp_depthwise_gradient_rows(lensnet_isa isa, int size, int stride, int pairs,
                                            float *dk, const float *dy, const float *in,
                                            const lnp_depthwise_geometry *s, size_t y)
{
    const ptrdiff_t top = (ptrdiff_t)y * stride - (ptrdiff_t)s->padding;
    const ptrdiff_t end = lnp_least(size, (ptrdiff_t)s->h - top), line = (ptrdiff_t)(s->w * s->c);
    ptrdiff_t u = top < 0 ? -top : 0;
    dy += y * s->out_w * s->c;
    for (; pairs && u + 2 <= end; u += 2)
        lnp_depthwise_gradient_row(isa, size, stride, 1, dk + u * size * 16, dy,
                                   in + (top + u) * line, s);
    for (; u < end; u++)
        lnp_depthwise_gradient_row(isa, size, stride, 0, dk + u * size * 16, dy,
                                   in + (top + u) * line, s);
}

/* -- one table per instruction set ------------------------------------------------------------- */

#define LNP_DEPTHWISE_FORWARD(name, TARGET, isa, widest, taps, stride)                             \
    TARGET static void lnp_depthwise_forward_##taps##_##stride##_##name(                           \
        float *out, const float *bias, const float *in, const float *weights,                      \
        const lnp_depthwise_pass *pass, size_t x0, size_t width, size_t y0, size_t y1)             \
    {                                                                                              \
        lnp_depthwise_tiles(isa, taps, stride, widest, out, bias, in, weights, pass, x0, width,    \
                            y0, y1);                                                               \
    }
#define LNP_DEPTHWISE_GRADIENT(name, TARGET, isa, pairs, size, stride)                             \
    TARGET static void lnp_depthwise_gradient_##size##_##stride##_##name(                          \
        float *dk, const float *dy, const float *in, const lnp_depthwise_geometry *shape,          \
        size_t y)                                                                                  \
    {                                                                                              \
        lnp_depthwise_gradient_rows(isa, size, stride, pairs, dk, dy, in, shape, y);               \
    }
#define LNP_DEPTHWISE_LEVEL(name, lanes, widest)                                                   \
    static const lnp_depthwise_level lnp_depthwise_##name = {                                      \
        lanes,                                                                                     \
        widest,                                                                                    \
        {LNP_FILTERS(LNP_FORWARD_ENTRY, name)},                                                    \
        {LNP_WHOLE_FILTERS(LNP_GRADIENT_ENTRY, name)}};

#if LNP_X86
#define LNP_FILTER_FORWARD_AVX2(taps, stride, name)                                                \
    LNP_DEPTHWISE_FORWARD(name, LNP_TARGET_AVX2, LENSNET_ISA_AVX2, 8, taps, stride)
#define LNP_FILTER_GRADIENT_AVX2(size, stride, name)                                               \
    LNP_DEPTHWISE_GRADIENT(name, LNP_TARGET_AVX2, LENSNET_ISA_AVX2, 0, size, stride)
LNP_FILTERS(LNP_FILTER_FORWARD_AVX2, avx2)
LNP_WHOLE_FILTERS(LNP_FILTER_GRADIENT_AVX2, avx2)
LNP_DEPTHWISE_LEVEL(avx2, 8, 8)
#endif
#if LNP_AVX512
/* The filter of ConvNeXt alone: the others are served by AVX2, half a vector at a time, so that nobody
 * waits for more code. */
LNP_DEPTHWISE_FORWARD(avx512, LNP_TARGET_AVX512, LENSNET_ISA_AVX512, 16, 7, 1)
LNP_DEPTHWISE_GRADIENT(avx512, LNP_TARGET_AVX512, LENSNET_ISA_AVX512, 1, 7, 1)
static const lnp_depthwise_level lnp_depthwise_avx512 = {
    16,
    16,
    {NULL, NULL, NULL, NULL, NULL, lnp_depthwise_forward_7_1_avx512, NULL, NULL, NULL},
    {NULL, NULL, lnp_depthwise_gradient_7_1_avx512, NULL, NULL, NULL}};
#endif

#if !LNP_FMA_EMULATED /* else the plain twin: a hundredth of the arithmetic does not pay for its code */
#define LNP_FILTER_FORWARD_PORTABLE(taps, stride, name)                                            \
    LNP_DEPTHWISE_FORWARD(name, LNP_UNUSED, LENSNET_ISA_PORTABLE, 16, taps, stride)
#define LNP_FILTER_GRADIENT_PORTABLE(size, stride, name)                                           \
    LNP_DEPTHWISE_GRADIENT(name, LNP_UNUSED, LENSNET_ISA_PORTABLE, 1, size, stride)
LNP_FILTERS(LNP_FILTER_FORWARD_PORTABLE, portable)
LNP_WHOLE_FILTERS(LNP_FILTER_GRADIENT_PORTABLE, portable)
LNP_DEPTHWISE_LEVEL(portable, 4, 16)
#endif
#endif

/* The kernels of one instruction set, which must be one that lnp_detect_isa gave. */
static lnp_depthwise_kernels lnp_depthwise_kernels_for(lensnet_isa isa)
{
    lnp_depthwise_kernels kernels;
    int levels = 0;
#if LNP_AVX512
    if (isa >= LENSNET_ISA_AVX512) kernels.level[levels++] = &lnp_depthwise_avx512;
#endif
#if LNP_X86
    if (isa >= LENSNET_ISA_AVX2) kernels.level[levels++] = &lnp_depthwise_avx2;
#endif
#if LNP_VECTORS && !LNP_FMA_EMULATED
    if (isa == LENSNET_ISA_PORTABLE) kernels.level[levels++] = &lnp_depthwise_portable;
#endif
    (void)isa;
    while (levels < 3) kernels.level[levels++] = &lnp_depthwise_reference;
    return kernels;
}

/* -- whole tensors ---------------------------------------------------------------------------- */

/* Rows y0..y1 of a pass over one sample; `filter` by lnp_filter_index. */
static void lnp_depthwise_run_pass(const lnp_depthwise_kernels *kernels, float *out,
                                   const float *bias, const float *in, const float *packed,
                                   size_t taps_all, size_t stride, const lnp_depthwise_pass *pass,
                                   size_t y0, size_t y1)
{
    const size_t filter = lnp_filter_index(pass->taps, stride);
    const lnp_depthwise_level *const *level = kernels->level;
    size_t c, x;
    if (y0 >= y1 || !pass->out_w) return;
    for (c = 0; c < pass->c; c += (*level)->lanes) {
        size_t width;
        while ((*level)->lanes > pass->c - c || !(*level)->forward[filter]) level++;
        width = lnp_depthwise_width(pass->taps, stride, (*level)->widest, pass->out_w);
        for (x = 0; x < pass->out_w; x += width)
            (*level)->forward[filter](out + c, bias ? bias + c : NULL, in + c,
                                      packed + c / 16 * 16 * taps_all + pass->weights + c % 16,
                                      pass, lnp_min(x, pass->out_w - width), width, y0, y1);
    }
}

#define LNP_DEPTHWISE_ROWS ((size_t)14) /* rows per task at most: out and in stay in L2 */

/* Rows per task such that every thread has some work. */
static size_t lnp_depthwise_task_rows(size_t n, size_t h, int threads)
{
    const size_t tasks = lnp_max(1, lnp_ceil_div((size_t)lnp_max(1, (size_t)threads), n));
    return lnp_min(LNP_DEPTHWISE_ROWS, lnp_ceil_div(h, tasks));
}

/* A convolution of n samples on its way: what its tasks need. */
typedef struct lnp_depthwise_work {
    const lnp_depthwise_kernels *kernels;
    const lnp_row_kernels *rows;
    float *out, *mean, *rstd;
    const float *in, *packed, *bias, *residual;
    lnp_depthwise_geometry shape;
    int backward; /* in is dY, out dX */
    float eps;
    size_t h, w;         /* of out */
    size_t step, blocks; /* rows of a task, tasks of a sample */
} lnp_depthwise_work;

/* Of the rows first, first + step, ..., how many are above row y. */
static size_t lnp_depthwise_above(size_t y, size_t first, size_t step)
{
    return y > first ? lnp_ceil_div(y - first, step) : 0;
}

/* Rows y0..y1 of one sample of dX: every class of its pixels by itself. */
static void lnp_depthwise_backward_rows(const lnp_depthwise_work *d, float *dx, const float *dy,
                                        size_t y0, size_t y1)
{
    const lnp_depthwise_geometry *s = &d->shape;
    size_t row, column;
    for (row = 0; row < s->stride; row++)
        for (column = 0; column < s->stride; column++) {
            const size_t first = lnp_depthwise_class_of(s, row, s->h).first;
            const lnp_depthwise_pass pass = lnp_depthwise_backward_pass(s, row, column);
            lnp_depthwise_run_pass(d->kernels, dx, NULL, dy, d->packed, s->size * s->size, 1, &pass,
                                   lnp_depthwise_above(y0, first, s->stride),
                                   lnp_depthwise_above(y1, first, s->stride));
        }
}

static void lnp_depthwise_task(const void *context, size_t task, size_t worker)
{
    const lnp_depthwise_work *d = (const lnp_depthwise_work *)context;
    const lnp_depthwise_geometry *s = &d->shape;
    const size_t sample = task / d->blocks, y0 = task % d->blocks * d->step;
    const size_t y1 = lnp_min(d->h, y0 + d->step), pixels = (y1 - y0) * d->w;
    const size_t pixel = (sample * d->h + y0) * d->w, c = s->c;
    float *out = d->out + sample * d->h * d->w * c;
    (void)worker;
    if (d->backward) {
        lnp_depthwise_backward_rows(d, out, d->in + sample * s->out_h * s->out_w * c, y0, y1);
    } else {
        const lnp_depthwise_pass pass = lnp_depthwise_forward_pass(s);
        lnp_depthwise_run_pass(d->kernels, out, d->bias, d->in + sample * s->h * s->w * c,
                               d->packed, s->size * s->size, s->stride, &pass, y0, y1);
    }
    out = d->out + pixel * c;
    if (d->residual) d->rows->add(out, d->residual + pixel * c, out, pixels * c);
    if (d->mean)
        d->rows->row_statistics(d->mean + pixel, d->rstd + pixel, out, c, pixels, c, d->eps);
}

static void lnp_depthwise_run(lnp_depthwise_work *d, size_t n, lnp_team *team)
{
    if (!n || !d->h || !d->w || !d->shape.c) return;
    d->step = lnp_depthwise_task_rows(n, d->h, team->threads);
    d->blocks = lnp_ceil_div(d->h, d->step);
    lnp_team_run(team, lnp_depthwise_task, d, n * d->blocks);
}

/* out (n,out_h,out_w,c) = bias + conv(x), bias may be NULL. Where mean and rstd (a value per pixel) are
 * not NULL, they get the LayerNorm statistics of out, taken while its rows are in cache. out is not x. */
static void lnp_depthwise_forward(const lnp_depthwise_kernels *kernels, const lnp_row_kernels *rows,
                                  float *out, float *mean, float *rstd, const float *x,
                                  const float *packed, const float *bias, size_t n,
                                  const lnp_depthwise_geometry *shape, float eps, lnp_team *team)
{
    lnp_depthwise_work d;
    memset(&d, 0, sizeof d);
    d.kernels = kernels;
    d.rows = rows;
    d.out = out;
    d.mean = mean;
    d.rstd = rstd;
    d.in = x;
    d.packed = packed;
    d.bias = bias;
    d.shape = *shape;
    d.h = shape->out_h;
    d.w = shape->out_w;
    d.eps = eps;
    lnp_depthwise_run(&d, n, team);
}

/* dx (n,h,w,c) = residual + what dy (n,out_h,out_w,c) says of x: residual is a tensor like dx, or NULL;
 * packed backward. dx is neither of the inputs. */
static void lnp_depthwise_input_gradient(const lnp_depthwise_kernels *kernels,
                                         const lnp_row_kernels *rows, float *dx,
                                         const float *residual, const float *dy,
                                         const float *packed, size_t n,
                                         const lnp_depthwise_geometry *shape, lnp_team *team)
{
    lnp_depthwise_work d;
    memset(&d, 0, sizeof d);
    d.kernels = kernels;
    d.rows = rows;
    d.out = dx;
    d.in = dy;
    d.packed = packed;
    d.residual = residual;
    d.shape = *shape;
    d.backward = 1;
    d.h = shape->h;
    d.w = shape->w;
    lnp_depthwise_run(&d, n, team);
}

/* -- the gradient of the weights -------------------------------------------------------------- */

#define LNP_BAND_ROWS ((size_t)14) /* of a chain: part of the law */

static size_t lnp_depthwise_bands(size_t out_h) { return lnp_ceil_div(out_h, LNP_BAND_ROWS); }

/* Floats of the sums of 16 channels over a band: taps and bias, [size * size + 1][16]. */
static size_t lnp_depthwise_band_floats(size_t size) { return 16 * (size * size + 1); }

/* Floats of scratch for lnp_depthwise_weight_gradient. */
static size_t lnp_depthwise_scratch_floats(size_t n, const lnp_depthwise_geometry *s)
{
    return n * lnp_depthwise_bands(s->out_h) * lnp_ceil_div(s->c, 16) *
           lnp_depthwise_band_floats(s->size);
}

/* Channels first..first+16 over one band of a sample. */
static void lnp_depthwise_band_sums(const lnp_depthwise_kernels *kernels,
                                    const lnp_row_kernels *rows, float *sums, const float *dy,
                                    const float *x, const lnp_depthwise_geometry *s, size_t band,
                                    size_t first)
{
    const size_t filter = lnp_filter_index(s->size, s->stride) - LNP_FILTER_PARTS;
    const size_t end = lnp_min(s->c, first + 16), line = s->out_w * s->c;
    const size_t last = lnp_min(s->out_h, (band + 1) * LNP_BAND_ROWS);
    size_t y, c;
    memset(sums, 0, lnp_depthwise_band_floats(s->size) * sizeof(float));
    for (y = band * LNP_BAND_ROWS; y < last; y++) {
        const lnp_depthwise_level *const *level = kernels->level;
        rows->column_sum(sums + 16 * s->size * s->size, dy + y * line + first, s->c, s->out_w,
                         end - first);
        for (c = first; c < end; c += (*level)->lanes) {
            while ((*level)->lanes > end - c || !(*level)->gradient[filter]) level++;
            (*level)->gradient[filter](sums + (c - first), dy + c, x + c, s, y);
        }
    }
}

/* A gradient on its way; `sums` of every band and 16 channels: [sample][band][group]. */
typedef struct lnp_depthwise_gradient {
    const lnp_depthwise_kernels *kernels;
    const lnp_row_kernels *rows;
    float *dweight, *dbias, *sums;
    const float *dy, *x;
    lnp_depthwise_geometry shape;
    size_t groups, bands, all_bands; /* of the channels; of a sample, of all */
} lnp_depthwise_gradient;

/* Adds the bands to the gradients of 16 channels, which have PyTorch's layout. */
static void lnp_depthwise_add_task(const void *context, size_t group, size_t worker)
{
    const lnp_depthwise_gradient *d = (const lnp_depthwise_gradient *)context;
    const size_t size = d->shape.size, taps = size * size, c = d->shape.c, first = group * 16;
    const size_t channels = lnp_min(c - first, 16), floats = lnp_depthwise_band_floats(size);
    float total[16 * (LNP_TAPS + 1)];
    size_t i, tap;
    (void)worker;
    lnp_depthwise_pack_group(total, d->dweight, size, 1, c, first, 0);
    for (i = 0; i < 16; i++)
        total[16 * taps + i] = d->dbias && i < channels ? d->dbias[first + i] : 0.0f;
    for (i = 0; i < d->all_bands; i++)
        d->rows->add(total, total, d->sums + (i * d->groups + group) * floats, floats);
    for (i = 0; i < channels; i++)
        for (tap = 0; tap < taps; tap++) d->dweight[(first + i) * taps + tap] = total[tap * 16 + i];
    for (i = 0; d->dbias && i < channels; i++) d->dbias[first + i] = total[16 * taps + i];
}

static void lnp_depthwise_band_task(const void *context, size_t i, size_t worker)
{
    const lnp_depthwise_gradient *d = (const lnp_depthwise_gradient *)context;
    const lnp_depthwise_geometry *s = &d->shape;
    const size_t band = i / d->groups, sample = band / d->bands;
    (void)worker;
    lnp_depthwise_band_sums(d->kernels, d->rows, d->sums + i * lnp_depthwise_band_floats(s->size),
                            d->dy + sample * s->out_h * s->out_w * s->c,
                            d->x + sample * s->h * s->w * s->c, s, band % d->bands,
                            i % d->groups * 16);
}

/* dweight (C,1,size,size) and dbias (C; may be NULL) continue over dy and x. Work is dealt in the order
 * of the rows, so that a thread has about those that it had before. */
static void lnp_depthwise_weight_gradient(const lnp_depthwise_kernels *kernels,
                                          const lnp_row_kernels *rows, float *dweight, float *dbias,
                                          const float *dy, const float *x, size_t n,
                                          const lnp_depthwise_geometry *shape, float *scratch,
                                          lnp_team *team)
{
    lnp_depthwise_gradient d;
    d.kernels = kernels;
    d.rows = rows;
    d.dweight = dweight;
    d.dbias = dbias;
    d.sums = scratch;
    d.dy = dy;
    d.x = x;
    d.shape = *shape;
    d.groups = lnp_ceil_div(shape->c, 16);
    d.bands = lnp_depthwise_bands(shape->out_h);
    d.all_bands = n * d.bands;
    lnp_team_run(team, lnp_depthwise_band_task, &d, d.all_bands * d.groups);
    lnp_team_run(team, lnp_depthwise_add_task, &d, d.groups);
}
/* =================================================================================================
 * >>parameters  Names, shapes and flat buffers of the weights, and their copies in kernel order.
 * Two ways to exist: trainable (one flat buffer of values, maybe one of gradients) or frozen (each
 * tensor only in the form its operator reads, taken straight from a file). Operators ask for a form
 * and never know which way it came.
 * ============================================================================================== */

#define LNP_TENSOR_NAME 160

/* What an operator reads. A tensor has one use; recording the first operator on it decides. Gradients
 * depend on it too: those of matrices with taps are summed in im2col's order. */
typedef enum lnp_use { LNP_USE_NONE, LNP_USE_PLAIN, LNP_USE_MATRIX, LNP_USE_DEPTHWISE } lnp_use;

/* Copies of a weight in kernel order: for the forward pass, and for the gradient of the input. */
typedef enum lnp_copy {
    LNP_FORWARD,
    LNP_BACKWARD,
    LNP_FORWARD_BF16,
    LNP_BACKWARD_BF16,
    LNP_COPIES
} lnp_copy;

static lnp_copy lnp_copy_of(lensnet_precision precision, int backward)
{
    if (precision == LENSNET_PRECISION_BF16) return backward ? LNP_BACKWARD_BF16 : LNP_FORWARD_BF16;
    return backward ? LNP_BACKWARD : LNP_FORWARD;
}

static int lnp_is_backward(int copy) { return copy == LNP_BACKWARD || copy == LNP_BACKWARD_BF16; }

typedef struct lnp_weight {
    char name[LNP_TENSOR_NAME];
    size_t shape[4];
    int rank;
    size_t offset, size;
    lensnet_initial initial;
    int statistic; /* no gradient descends on it */
    lnp_use use;
    size_t groups; /* of LNP_USE_MATRIX: `groups` matrices of n x k each */
    size_t n, k;
    size_t stride;                      /* of LNP_USE_DEPTHWISE */
    float *frozen;                      /* a plain tensor of frozen parameters */
    const lensnet_archive_entry *given; /* while a model is loaded: where its values come from */
    int folded; /* freezing takes a batch norm in: 1 filters, 2 its shift, which becomes their bias */
    int norm[3];   /* that norm's weight, running variance and mean */
    float epsilon; /* and epsilon */
    int wanted[LNP_COPIES];
    float *packed[LNP_COPIES]; /* copies that exist */
    uint64_t packed_version;
} lnp_weight;

struct lensnet_parameters {
    lensnet_host host;
    lnp_gemm_kernels gemm[2]; /* by lensnet_precision */
    lnp_weight *weights;
    size_t count, capacity, size;
    float *values, *gradients;
    uint64_t version; /* of the values; packed copies carry the version they were made from */
    int frozen;
    int folds;             /* will be frozen, so batch norms may be folded */
    int process;           /* that created them (lnp_process) */
    lensnet_error failure; /* of the first bad lensnet_parameter_add */
};

static int lnp_host_valid(const lensnet_host *host)
{
    return host->allocate && host->release && host->threads >= 0;
}

lensnet_result lensnet_parameters_create(lensnet_parameters **parameters, const lensnet_host *host,
                                         lensnet_error *error)
{
    lensnet_host defaults = lensnet_host_defaults();
    lensnet_parameters *p;
    if (!parameters)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "parameters: NULL result pointer");
    *parameters = NULL;
    if (!host) host = &defaults;
    if (!lnp_host_valid(host))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "host: allocate or release is NULL, or threads < 0; start from "
                        "lensnet_host_defaults()");
    p = (lensnet_parameters *)lnp_allocate(host, sizeof *p);
    if (!p) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for a parameter table");
    memset(p, 0, sizeof *p);
    p->host = *host;
    p->gemm[0] = *lnp_gemm_kernels_for(lnp_detect_isa(host->isa_cap));
    p->gemm[1] = lnp_bfloat_kernels_for(lnp_detect_isa(host->isa_cap));
    p->version = 1;
    p->process = lnp_process();
    *parameters = p;
    return LENSNET_OK;
}

static const lnp_gemm_kernels *lnp_copy_gemm(const lensnet_parameters *p, int copy)
{
    return &p->gemm[copy >= LNP_FORWARD_BF16];
}

static size_t lnp_packed_copy_floats(const lensnet_parameters *p, const lnp_weight *w, int copy)
{
    const int backward = lnp_is_backward(copy);
    if (w->use == LNP_USE_DEPTHWISE) return lnp_depthwise_packed_floats(w->shape[2], w->shape[0]);
    return w->groups * lnp_packed_floats(lnp_copy_gemm(p, copy), backward ? w->k : w->n,
                                         backward ? w->n : w->k);
}

static void lnp_weight_release(const lensnet_parameters *p, lnp_weight *w)
{
    int copy;
    lnp_release(&p->host, w->frozen, w->size * sizeof(float));
    for (copy = 0; copy < LNP_COPIES; copy++)
        if (w->packed[copy])
            lnp_release(&p->host, w->packed[copy],
                        lnp_packed_copy_floats(p, w, copy) * sizeof(float));
}

void lensnet_parameters_destroy(lensnet_parameters *p)
{
    size_t i;
    lensnet_host host;
    if (!p) return;
    host = p->host;
    for (i = 0; i < p->count; i++) lnp_weight_release(p, &p->weights[i]);
    lnp_release(&host, p->values, p->size * sizeof(float));
    lnp_release(&host, p->gradients, p->size * sizeof(float));
    lnp_release(&host, p->weights, p->capacity * sizeof(lnp_weight));
    lnp_release(&host, p, sizeof *p);
}

static lensnet_result lnp_parameter_check(const lensnet_parameters *p, const char *name,
                                          const size_t *shape, int *rank, size_t *size,
                                          lensnet_error *error)
{
    size_t i;
    if (p->values || p->frozen)
        return lnp_fail(error, LENSNET_ERROR_STATE, "parameter added after allocate");
    if (!name || !*name || strlen(name) >= LNP_TENSOR_NAME)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "parameter name: expected 1 to %d characters", LNP_TENSOR_NAME - 1);
    for (i = 0; i < p->count; i++)
        if (!strcmp(p->weights[i].name, name))
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "parameter \"%s\" exists already", name);
    for (*rank = 0, *size = 1; *rank < 4 && shape[*rank]; ++*rank)
        if (!lnp_multiply(*size, shape[*rank], size))
            return lnp_fail(error, LENSNET_ERROR_SHAPE, "parameter \"%s\" is too large", name);
    for (i = (size_t)*rank; i < 4; i++)
        if (shape[i]) *rank = 0;
    if (*rank == 0)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "parameter \"%s\": dimensions must be > 0, unused ones at the end 0", name);
    if (*size > SIZE_MAX / 16 - p->size)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "parameter \"%s\": too many weights", name);
    return LENSNET_OK;
}

lensnet_parameter lensnet_parameter_add(lensnet_parameters *p, const char *name, size_t d0,
                                        size_t d1, size_t d2, size_t d3, lensnet_initial initial)
{
    lensnet_parameter handle = {-1};
    size_t shape[4];
    size_t size = 0;
    int rank = 0, i;
    lnp_weight *w;
    shape[0] = d0;
    shape[1] = d1;
    shape[2] = d2;
    shape[3] = d3;
    if (!p || p->failure.code) return handle;
    if (lnp_parameter_check(p, name, shape, &rank, &size, &p->failure)) return handle;
    if (!lnp_grow(&p->host, (void **)&p->weights, p->count, &p->capacity, sizeof *p->weights)) {
        lnp_fail(&p->failure, LENSNET_ERROR_MEMORY, "out of memory for parameter \"%s\"", name);
        return handle;
    }
    w = &p->weights[p->count];
    memset(w, 0, sizeof *w);
    memcpy(w->name, name, strlen(name) + 1);
    for (i = 0; i < 4; i++) w->shape[i] = i < rank ? shape[i] : 1;
    w->rank = rank;
    w->size = size;
    w->offset = p->size;
    w->initial = initial;
    p->size += size;
    handle.index = (int)p->count++;
    return handle;
}

lensnet_parameter lensnet_statistic_add(lensnet_parameters *p, const char *name, size_t count,
                                        lensnet_initial initial)
{
    const lensnet_parameter handle = lensnet_parameter_add(p, name, count, 0, 0, 0, initial);
    if (handle.index >= 0) p->weights[handle.index].statistic = 1;
    return handle;
}

static void lnp_set_all(float *values, float value, size_t n)
{
    while (n--) *values++ = value;
}

#define LNP_DRAWN_AT_A_TIME ((size_t)4096)

typedef struct lnp_drawing {
    float *values;
    size_t size;
    double deviation;
    uint64_t seed, stream;
} lnp_drawing;

static void lnp_draw_task(const void *context, size_t part, size_t worker)
{
    const lnp_drawing *d = (const lnp_drawing *)context;
    const size_t end = lnp_min(d->size, (part + 1) * LNP_DRAWN_AT_A_TIME);
    size_t i;
    (void)worker;
    for (i = part * LNP_DRAWN_AT_A_TIME; i < end; i++)
        d->values[i] =
            (float)(d->deviation * lensnet_random_normal(d->seed, d->stream, (uint64_t)i));
}

/* Normal values from (seed, name, index), by all threads: Tiny has 28 million. */
static void lnp_draw(float *values, const lnp_weight *w, double deviation, uint64_t seed,
                     lnp_team *team)
{
    lnp_drawing d;
    d.values = values;
    d.size = w->size;
    d.deviation = deviation;
    d.seed = seed;
    d.stream = lensnet_random_stream(w->name);
    lnp_team_run(team, lnp_draw_task, &d, lnp_ceil_div(w->size, LNP_DRAWN_AT_A_TIME));
}

static void lnp_initialize(float *values, const lnp_weight *w, uint64_t seed, lnp_team *team)
{
    switch (w->initial) {
    case LENSNET_INITIAL_ZERO: lnp_set_all(values, 0.0f, w->size); break;
    case LENSNET_INITIAL_ONE: lnp_set_all(values, 1.0f, w->size); break;
    case LENSNET_INITIAL_TINY: lnp_set_all(values, 1e-6f, w->size); break;
    case LENSNET_INITIAL_NORMAL_002: lnp_draw(values, w, 0.02, seed, team); break;
    case LENSNET_INITIAL_HE:
        lnp_draw(values, w, sqrt(2.0 / (double)(w->size / w->shape[0])), seed, team);
        break;
    }
}

typedef struct lnp_drawn_parameters {
    lensnet_parameters *parameters;
    uint64_t seed;
    lnp_team team;
} lnp_drawn_parameters;

static void lnp_initialize_all(void *context)
{
    lnp_drawn_parameters *all = (lnp_drawn_parameters *)context;
    lensnet_parameters *p = all->parameters;
    size_t i;
    for (i = 0; i < p->count; i++)
        if (!p->weights[i].given)
            lnp_initialize(p->values + p->weights[i].offset, &p->weights[i], all->seed, &all->team);
}

lensnet_result lensnet_parameters_allocate(lensnet_parameters *p, int gradients, uint64_t seed,
                                           lensnet_error *error)
{
    uint64_t mode;
    lnp_drawn_parameters all;
    if (!p) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "parameters: NULL");
    if (p->failure.code) return lnp_fail(error, p->failure.code, "%s", p->failure.text);
    if (p->values || p->frozen)
        return lnp_fail(error, LENSNET_ERROR_STATE, "parameters are allocated already");
    p->values = (float *)lnp_allocate(&p->host, p->size * sizeof(float));
    if (p->values && gradients)
        p->gradients = (float *)lnp_allocate(&p->host, p->size * sizeof(float));
    if (!p->values || (gradients && !p->gradients)) {
        lnp_release(&p->host, p->values, p->size * sizeof(float));
        p->values = NULL;
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for %.1f million weights",
                        (double)p->size / 1e6);
    }
    if (gradients) memset(p->gradients, 0, p->size * sizeof(float));
    mode = lnp_mode_enter();
    all.parameters = p;
    all.seed = seed;
    lnp_team_begin(&all.team, lnp_threads(&p->host), p->process);
    lnp_team_pass(&all.team, lnp_initialize_all, &all);
    lnp_mode_leave(mode);
    return LENSNET_OK;
}

size_t lensnet_parameters_count(const lensnet_parameters *p) { return p ? p->count : 0; }
size_t lensnet_parameters_size(const lensnet_parameters *p) { return p ? p->size : 0; }
float *lensnet_parameters_values(lensnet_parameters *p) { return p ? p->values : NULL; }
float *lensnet_parameters_gradients(lensnet_parameters *p) { return p ? p->gradients : NULL; }

void lensnet_parameters_changed(lensnet_parameters *p)
{
    if (p) p->version++;
}

lensnet_parameter_info lensnet_parameters_info(const lensnet_parameters *p, size_t index)
{
    lensnet_parameter_info info;
    memset(&info, 0, sizeof info);
    if (p && index < p->count) {
        const lnp_weight *w = &p->weights[index];
        info.name = w->name;
        memcpy(info.shape, w->shape, sizeof info.shape);
        info.rank = w->rank;
        info.offset = w->offset;
        info.size = w->size;
        info.statistic = w->statistic;
    }
    return info;
}

static const float *lnp_weight_values(const lensnet_parameters *p, int index)
{
    if (index < 0) return NULL;
    return p->frozen ? p->weights[index].frozen : p->values + p->weights[index].offset;
}

static float *lnp_weight_gradient(const lensnet_parameters *p, int index)
{
    return index < 0 ? NULL : p->gradients + p->weights[index].offset;
}

/* --- copies in kernel order -------------------------------------------------------------------- */

typedef struct lnp_turning {
    float *to;
    const float *from;
    size_t channels, taps;
    int back;
} lnp_turning;

static void lnp_turn_filter(const void *context, size_t filter, size_t worker)
{
    const lnp_turning *turn = (const lnp_turning *)context;
    const size_t rows = turn->back ? turn->taps : turn->channels;
    const size_t columns = turn->back ? turn->channels : turn->taps;
    const float *from = turn->from + filter * rows * columns;
    float *to = turn->to + filter * rows * columns;
    size_t r, c;
    (void)worker;
    for (c = 0; c < columns; c++)
        for (r = 0; r < rows; r++) *to++ = from[r * columns + c];
}

/* (K, C, R, S) -> (K, R, S, C), the order in which im2col lays out a channels-last patch, or back. */
static void lnp_turn_taps(float *to, const float *from, const lnp_weight *w, int back,
                          lnp_team *team)
{
    lnp_turning turn;
    turn.to = to;
    turn.from = from;
    turn.channels = w->shape[1];
    turn.taps = w->shape[2] * w->shape[3];
    turn.back = back;
    lnp_team_run(team, lnp_turn_filter, &turn, w->shape[0]);
}

static int lnp_has_taps(const lnp_weight *w) { return w->shape[2] * w->shape[3] > 1; }

/* One copy of the matrices at `values`, in im2col's order. */
static void lnp_pack_matrices(const lensnet_parameters *p, const lnp_weight *w, int copy,
                              const float *values, lnp_team *team)
{
    const int backward = lnp_is_backward(copy);
    const lnp_gemm_kernels *gemm = lnp_copy_gemm(p, copy);
    const size_t n = backward ? w->k : w->n, k = backward ? w->n : w->k;
    size_t g;
    for (g = 0; g < w->groups; g++, values += n * k)
        lnp_pack_weights(gemm, w->packed[copy] + g * lnp_packed_floats(gemm, n, k), values, n, k,
                         !backward, team);
}

/* All copies that exist. `scratch` holds w->size floats if the tensor has taps. */
static void lnp_pack_weight(const lensnet_parameters *p, lnp_weight *w, const float *values,
                            float *scratch, lnp_team *team)
{
    int copy;
    if (w->use == LNP_USE_MATRIX && lnp_has_taps(w)) {
        lnp_turn_taps(scratch, values, w, 0, team);
        values = scratch;
    }
    for (copy = 0; copy < LNP_COPIES; copy++) {
        if (!w->packed[copy]) continue;
        if (w->use == LNP_USE_MATRIX)
            lnp_pack_matrices(p, w, copy, values, team);
        else
            lnp_depthwise_pack(w->packed[copy], values, w->shape[2], w->stride, w->shape[0],
                               lnp_is_backward(copy), team);
    }
}

static size_t lnp_pack_scratch_floats(const lensnet_parameters *p)
{
    size_t i, most = 0;
    for (i = 0; i < p->count; i++)
        if (p->weights[i].use == LNP_USE_MATRIX && lnp_has_taps(&p->weights[i]))
            most = lnp_max(most, p->weights[i].size);
    return most;
}

/* Brings the packed copies up to date; free when nothing changed. Weights for which the scratch is too
 * small came into use after it was planned: a later graph's, which packs them itself. */
static void lnp_parameters_pack(lensnet_parameters *p, float *scratch, size_t scratch_floats,
                                lnp_team *team)
{
    size_t i;
    if (p->frozen) return;
    for (i = 0; i < p->count; i++) {
        lnp_weight *w = &p->weights[i];
        if (w->use <= LNP_USE_PLAIN || w->packed_version == p->version) continue;
        if (w->use == LNP_USE_MATRIX && lnp_has_taps(w) && w->size > scratch_floats) continue;
        lnp_pack_weight(p, w, p->values + w->offset, scratch, team);
        w->packed_version = p->version;
    }
}

/* Behind the last number of a weight in the flat buffers. */
static size_t lnp_weight_end(const lensnet_parameters *p, int index)
{
    return p->weights[index].offset + p->weights[index].size;
}

/* Brings the gradients of convolutions from number `first` to `end` - 1, which were summed in im2col's order,
 * into the order of their shapes. What is larger than the scratch, a later graph uses: here it is zero. */
static void lnp_gradients_channels_first(lensnet_parameters *p, size_t first, size_t end,
                                         float *scratch, size_t scratch_floats, lnp_team *team)
{
    size_t i;
    for (i = 0; i < p->count; i++) {
        const lnp_weight *w = &p->weights[i];
        float *gradient = p->gradients + w->offset;
        if (w->offset < first || w->offset >= end) continue;
        if (w->use != LNP_USE_MATRIX || !lnp_has_taps(w) || w->size > scratch_floats) continue;
        memcpy(scratch, gradient, w->size * sizeof(float));
        lnp_turn_taps(gradient, scratch, w, 1, team);
    }
}

/* Bytes of the copies that the recorded uses still need. */
static size_t lnp_missing_packed_bytes(const lensnet_parameters *p)
{
    size_t i, floats = 0;
    int copy;
    if (p->frozen) return 0;
    for (i = 0; i < p->count; i++)
        for (copy = 0; copy < LNP_COPIES; copy++)
            if (p->weights[i].wanted[copy] && !p->weights[i].packed[copy])
                floats += lnp_packed_copy_floats(p, &p->weights[i], copy);
    return floats * sizeof(float);
}

/* Takes the copies of one weight that are wanted and not there. */
static lensnet_result lnp_allocate_copies(lensnet_parameters *p, lnp_weight *w,
                                          lensnet_error *error)
{
    int copy;
    for (copy = 0; copy < LNP_COPIES; copy++) {
        if (!w->wanted[copy] || w->packed[copy]) continue;
        w->packed_version = 0;
        w->packed[copy] =
            (float *)lnp_allocate(&p->host, lnp_packed_copy_floats(p, w, copy) * sizeof(float));
        if (!w->packed[copy])
            return lnp_fail(error, LENSNET_ERROR_MEMORY,
                            "out of memory for the packed copy of \"%s\"", w->name);
    }
    return LENSNET_OK;
}

/* Takes what lnp_missing_packed_bytes counted. On failure what was taken stays, for the next try. */
static lensnet_result lnp_allocate_packed(lensnet_parameters *p, lensnet_error *error)
{
    lensnet_result result = LENSNET_OK;
    size_t i;
    for (i = 0; !p->frozen && i < p->count && !result; i++)
        result = lnp_allocate_copies(p, &p->weights[i], error);
    return result;
}

/* --- freezing ---------------------------------------------------------------------------------- */

/* Hands the values of tensor `index` to `values`. */
typedef lensnet_result (*lnp_supply)(void *context, size_t index, float *values,
                                     lensnet_error *error);

static lensnet_result lnp_freeze_weight(lensnet_parameters *p, size_t index, const float *values,
                                        float *scratch, lensnet_error *error)
{
    lnp_weight *w = &p->weights[index];
    lensnet_result result;
    lnp_team alone;
    if (w->use > LNP_USE_PLAIN) {
        result = lnp_allocate_copies(p, w, error);
        if (result) return result;
        lnp_team_begin(&alone, 1, 0);
        lnp_pack_weight(p, w, values, scratch, &alone);
        return LENSNET_OK;
    }
    w->frozen = (float *)lnp_allocate(&p->host, w->size * sizeof(float));
    if (!w->frozen)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for the weights \"%s\"",
                        w->name);
    memcpy(w->frozen, values, w->size * sizeof(float));
    return LENSNET_OK;
}

/* Filters times the factors of the batch norm after them, weight / sqrt(variance + epsilon); or its shift,
 * bias - mean factor. */
static void lnp_fold_values(const lnp_weight *w, float *values, const float *norm)
{
    const size_t count = w->shape[0], row = w->size / count;
    size_t k, i;
    for (k = 0; k < count; k++) {
        const double factor = (double)norm[k] / sqrt((double)norm[count + k] + (double)w->epsilon);
        if (w->folded == 2)
            values[k] = (float)((double)values[k] - (double)norm[2 * count + k] * factor);
        for (i = 0; w->folded == 1 && i < row; i++)
            values[k * row + i] = (float)((double)values[k * row + i] * factor);
    }
}

static lensnet_result lnp_fold_weight(const lensnet_parameters *p, const lnp_weight *w,
                                      float *values, lnp_supply supply, void *context,
                                      lensnet_error *error)
{
    const size_t bytes = 3 * w->shape[0] * sizeof(float);
    float *norm = (float *)lnp_allocate(&p->host, bytes);
    lensnet_result result = LENSNET_OK;
    size_t i;
    if (!norm)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory while folding a batch norm");
    for (i = 0; i < 3 && !result; i++)
        result = supply(context, (size_t)w->norm[i], norm + i * w->shape[0], error);
    if (!result) lnp_fold_values(w, values, norm);
    lnp_release(&p->host, norm, bytes);
    return result;
}

/* Gives every tensor the one form that the recorded operators read, and no other: weights exist once
 * in memory. */
static lensnet_result lnp_parameters_freeze(lensnet_parameters *p, lnp_supply supply, void *context,
                                            lensnet_error *error)
{
    size_t i, most = 1, scratch = lnp_pack_scratch_floats(p);
    lensnet_result result = LENSNET_OK;
    float *staging;
    for (i = 0; i < p->count; i++) most = lnp_max(most, p->weights[i].size);
    most = lnp_round_up(most, 16);
    staging = (float *)lnp_allocate(&p->host, (most + scratch) * sizeof(float));
    if (!staging)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory while loading weights");
    p->frozen = 1;
    for (i = 0; i < p->count && !result; i++) {
        result = supply(context, i, staging, error);
        if (!result && p->weights[i].folded)
            result = lnp_fold_weight(p, &p->weights[i], staging, supply, context, error);
        if (!result) result = lnp_freeze_weight(p, i, staging, staging + most, error);
    }
    lnp_release(&p->host, staging, (most + scratch) * sizeof(float));
    return result;
}
/* =================================================================================================
 * >>graph  Record, plan, run.
 * A graph is two tables, tensors and nodes, filled by the recording calls; a node is an operator with
 * its tensors, its weights and its options. Planning gives every value, gradient and saved intermediate
 * a lifetime, measured in executions of nodes, and a place in one stretch of memory, so that what never
 * lives together shares it. Running walks the nodes forward, then backward, one micro-batch after the
 * other. What an operator is stands in its description (lensnet_operator), beside its functions
 * (>>operators-impl); nothing here knows any by name.
 * ============================================================================================== */

#define LNP_TARGET_CAPACITY 24

/* A stretch of memory that lives from one execution to another. The executions of a graph of T nodes
 * are 0 ... T - 1 forward and T ... 2T - 1 backward. */
typedef struct lnp_buffer {
    size_t floats; /* for a whole micro-batch */
    int first, last;
    size_t offset;
} lnp_buffer;

#define LNP_KEPT_ASIDE 2

typedef struct lnp_activation {
    size_t h, w, c;
    int producer;      /* node */
    int last_consumer; /* last node whose backward gives it a gradient; -1: none */
    int wants_gradient;
    int kept; /* 1: to the end of a run; LNP_KEPT_ASIDE: so, and computed only in a run that collects it */
    int value, gradient; /* buffers; -1: none */
} lnp_activation;

struct lensnet_node {
    const lensnet_operator *op;
    lensnet_graph *graph;
    int inputs[LENSNET_MAX_INPUTS];         /* tensors; -1: none */
    int output;                             /* tensor; -1: a loss */
    int parameters[LENSNET_MAX_PARAMETERS]; /* -1: none */
    lensnet_precision precision;            /* of its matrix products */
    union {
        double aligned;
        void *also_aligned;
        unsigned char bytes[LENSNET_OPTION_BYTES];
    } options;        /* a copy of what was recorded */
    float *constants; /* owned; NULL: none */
    size_t constant_count;
    int loss;                    /* its number among the losses; -1: none */
    int saved[LENSNET_MAX_KEPT]; /* buffers kept from forward to backward; -1: none */
    size_t scratch;              /* floats that an execution needs, forward or backward */
    size_t gradients_end; /* no operator up to this one adds to a gradient from this number on */
};

/* A loss of a graph, and where it stands in the batch that is being computed. */
typedef struct lnp_loss {
    int node;
    float weight;
    char target[LNP_TARGET_CAPACITY]; /* name; empty: the operator finds its targets itself */
    int given;                        /* the batch has what it needs */
    const float *targets;             /* of the whole batch, by name */
    double divisor;                   /* of the sum over the whole batch */
    double sum;                       /* over the samples so far, before weight and divisor */
} lnp_loss;

/* A micro-batch on its way through the graph. */
typedef struct lnp_run {
    const lensnet_batch *batch;
    lensnet_outputs *outputs;
    int backward;      /* backward follows */
    int turned;        /* this is backward */
    float *collected;  /* where a kept tensor of every sample goes, or NULL */
    int collect;       /* that tensor */
    size_t first, n;   /* samples first ... first + n - 1 of the batch */
    size_t incomplete; /* gradients below this number */
    float *scratch;
    float *dx
        [LENSNET_MAX_INPUTS]; /* where the node in backward writes its inputs' gradients, or NULL */
} lnp_run;

struct lensnet_graph {
    lensnet_host host;
    lensnet_parameters *parameters;
    lensnet_graph_options options;
    lensnet_precision precision; /* of what is recorded next */
    lensnet_isa map_isa;         /* which of the kernels that stand beside their operators */
    lnp_row_kernels kernels;
    const lnp_half_kernels *half;
    lnp_depthwise_kernels depthwise;
    lnp_team team;
    lnp_activation *tensors;
    size_t tensor_count, tensor_capacity;
    lensnet_node *nodes;
    size_t node_count, node_capacity;
    lnp_buffer *buffers;
    size_t buffer_count, buffer_capacity;
    uint64_t drop_paths;
    int input, logits; /* tensors; -1: none */
    lnp_loss losses[LENSNET_LOSSES];
    int loss_count;
    lensnet_error failure; /* of the first recording call that failed */
    int planned;
    size_t micro_batch, activation_floats, scratch_floats;
    float *memory;
    size_t memory_bytes;
    lnp_run run;
};

/* --- recording --------------------------------------------------------------------------------- */

lensnet_graph_options lensnet_graph_defaults(void)
{
    lensnet_graph_options o;
    memset(&o, 0, sizeof o);
    o.height = 224;
    o.width = 224;
    o.batch = 32;
    return o;
}

const char *lensnet_precision_text(lensnet_precision precision)
{
    switch (precision) {
    case LENSNET_PRECISION_FP32: return "fp32";
    case LENSNET_PRECISION_BF16: return "bf16";
    }
    return NULL;
}

lensnet_result lensnet_precision_parse(lensnet_precision *precision, const char *text,
                                       lensnet_error *error)
{
    const int bf16 = text && strcmp(text, "bf16") == 0;
    if (!precision || !text || (!bf16 && strcmp(text, "fp32") != 0))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "precision: expected fp32 or bf16, got %.40s", text ? text : "NULL");
    *precision = bf16 ? LENSNET_PRECISION_BF16 : LENSNET_PRECISION_FP32;
    return LENSNET_OK;
}

void lensnet_graph_set_precision(lensnet_graph *g, lensnet_precision precision)
{
    if (!g || g->failure.code) return;
    if (lensnet_precision_text(precision))
        g->precision = precision;
    else
        lnp_fail(&g->failure, LENSNET_ERROR_ARGUMENT, "graph: precision %d is none",
                 (int)precision);
}

static lensnet_result lnp_graph_options_check(const lensnet_graph_options *o, lensnet_error *error)
{
    if (!o->height || !o->width || !o->batch || o->height > 65536 || o->width > 65536 ||
        o->batch > 1048576)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "graph: height and width must be 1 ... 65536 and batch 1 ... 1048576; got "
                        "%zu x %zu, batch %zu",
                        o->height, o->width, o->batch);
    if (!lensnet_precision_text(o->precision))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "graph: precision %d is none",
                        (int)o->precision);
    return LENSNET_OK;
}

lensnet_result lensnet_graph_create(lensnet_graph **graph, lensnet_parameters *parameters,
                                    const lensnet_graph_options *options, lensnet_error *error)
{
    lensnet_graph_options defaults = lensnet_graph_defaults();
    lensnet_result result;
    lensnet_graph *g;
    lensnet_isa isa;
    if (!graph) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "graph: NULL result pointer");
    *graph = NULL;
    if (!parameters) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "graph: parameters are NULL");
    if (!options) options = &defaults;
    result = lnp_graph_options_check(options, error);
    if (result) return result;
    g = (lensnet_graph *)lnp_allocate(&parameters->host, sizeof *g);
    if (!g) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for a graph");
    memset(g, 0, sizeof *g);
    g->host = parameters->host;
    g->parameters = parameters;
    g->options = *options;
    g->precision = options->precision;
    isa = lnp_detect_isa(g->host.isa_cap);
    g->map_isa = isa < LENSNET_ISA_AVX512 ? isa : LENSNET_ISA_AVX512;
    g->kernels = lnp_row_kernels_for(isa);
    g->half = lnp_half_kernels_for(parameters->gemm[LENSNET_PRECISION_BF16].isa);
    g->depthwise = lnp_depthwise_kernels_for(isa);
    lnp_team_begin(&g->team, lnp_threads(&g->host), parameters->process);
    g->input = g->logits = -1;
    *graph = g;
    return LENSNET_OK;
}

/* All that the graph took from the host for itself, packed weights apart. */
static size_t lnp_graph_bytes(const lensnet_graph *g)
{
    return sizeof *g + g->memory_bytes + g->tensor_capacity * sizeof *g->tensors +
           g->node_capacity * sizeof *g->nodes + g->buffer_capacity * sizeof *g->buffers;
}

void lensnet_graph_destroy(lensnet_graph *g)
{
    size_t i;
    lensnet_host host;
    if (!g) return;
    host = g->host;
    for (i = 0; i < g->node_count; i++)
        lnp_release(&host, g->nodes[i].constants, g->nodes[i].constant_count * sizeof(float));
    lnp_release(&host, g->memory, g->memory_bytes);
    lnp_release(&host, g->tensors, g->tensor_capacity * sizeof *g->tensors);
    lnp_release(&host, g->nodes, g->node_capacity * sizeof *g->nodes);
    lnp_release(&host, g->buffers, g->buffer_capacity * sizeof *g->buffers);
    lnp_release(&host, g, sizeof *g);
}

static int lnp_tensor_valid(const lensnet_graph *g, lensnet_tensor x)
{
    return x.index >= 0 && (size_t)x.index < g->tensor_count;
}

static lensnet_tensor lnp_no_tensor(void)
{
    lensnet_tensor none = {-1};
    return none;
}

/* The place for the next node, blank; NULL when the graph is poisoned or becomes so. */
static lensnet_node *lnp_node_begin(lensnet_graph *g, const lensnet_operator *op)
{
    lensnet_node *node;
    int i;
    if (!g || g->failure.code) return NULL;
    if (g->planned) {
        lnp_fail(&g->failure, LENSNET_ERROR_STATE, "%s recorded after the plan", op->name);
        return NULL;
    }
    if (!lnp_grow(&g->host, (void **)&g->nodes, g->node_count, &g->node_capacity,
                  sizeof *g->nodes) ||
        !lnp_grow(&g->host, (void **)&g->tensors, g->tensor_count, &g->tensor_capacity,
                  sizeof *g->tensors)) {
        lnp_fail(&g->failure, LENSNET_ERROR_MEMORY, "out of memory while recording");
        return NULL;
    }
    node = &g->nodes[g->node_count];
    memset(node, 0, sizeof *node);
    node->op = op;
    node->graph = g;
    node->precision = g->precision;
    node->output = node->loss = -1;
    for (i = 0; i < LENSNET_MAX_INPUTS; i++) node->inputs[i] = -1;
    for (i = 0; i < LENSNET_MAX_PARAMETERS; i++) node->parameters[i] = -1;
    for (i = 0; i < LENSNET_MAX_KEPT; i++) node->saved[i] = -1;
    return node;
}

/* The description itself: it may come from outside. */
static lensnet_result lnp_operator_check(const lensnet_operator *op, int as_loss,
                                         lensnet_error *error)
{
    const int is_loss = (op->flags & LENSNET_IS_LOSS) != 0;
    if (!op->name || op->inputs < 0 || op->inputs > LENSNET_MAX_INPUTS || op->parameters < 0 ||
        op->parameters > LENSNET_MAX_PARAMETERS || op->option_bytes > LENSNET_OPTION_BYTES ||
        !op->forward || !op->backward || (!op->shape && !op->inputs))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "%s: the operator's description has no name, forward, backward or shape, "
                        "or more than %d inputs, %d parameters or %d bytes of options",
                        op->name ? op->name : "operator", LENSNET_MAX_INPUTS,
                        LENSNET_MAX_PARAMETERS, LENSNET_OPTION_BYTES);
    if (is_loss != as_loss || (is_loss && (op->inputs != 1 || op->required)))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "%s: a loss has LENSNET_IS_LOSS, one input and no weight, and is recorded "
                        "by lensnet_record_loss; no other operator is",
                        op->name);
    return LENSNET_OK;
}

static lensnet_result lnp_node_connect(lensnet_node *node, const lensnet_tensor *inputs,
                                       const lensnet_parameter *parameters, lensnet_error *error)
{
    const lensnet_operator *op = node->op;
    int k;
    for (k = 0; k < op->inputs; k++) {
        if (!inputs || !lnp_tensor_valid(node->graph, inputs[k]))
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "%s: input is not a tensor of this graph", op->name);
        node->inputs[k] = inputs[k].index;
    }
    for (k = 0; k < op->parameters; k++) {
        const int index = parameters && parameters[k].index >= 0 ? parameters[k].index : -1;
        if (index >= (int)node->graph->parameters->count)
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "%s: no such parameter", op->name);
        if (index < 0 && k < op->required)
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "%s: parameter %d is missing", op->name,
                            k);
        node->parameters[k] = index;
    }
    return LENSNET_OK;
}

/* A gradient passes where one comes out: to an input that wants one, or to a weight. */
static int lnp_node_wants_gradient(const lensnet_node *node)
{
    int k, wanted = 0;
    for (k = 0; k < LENSNET_MAX_INPUTS; k++)
        wanted |= node->inputs[k] >= 0 && node->graph->tensors[node->inputs[k]].wants_gradient;
    for (k = 0; k < LENSNET_MAX_PARAMETERS; k++) wanted |= node->parameters[k] >= 0;
    return wanted && node->graph->options.training;
}

const void *lensnet_node_options(const lensnet_node *node) { return node->options.bytes; }

/* A copy of `values` for as long as the node lives; without memory the graph is poisoned. */
static void lnp_keep_constants(lensnet_node *node, const float *values, size_t count)
{
    lensnet_graph *g = node->graph;
    node->constants = (float *)lnp_allocate(&g->host, count * sizeof(float));
    if (!node->constants) {
        lnp_fail(&g->failure, LENSNET_ERROR_MEMORY, "%s: out of memory while recording",
                 node->op->name);
        return;
    }
    node->constant_count = count;
    memcpy(node->constants, values, count * sizeof(float));
}

/* The output has the shape of the first input: the shape rule of operators that give none. */
static lensnet_result lnp_shape_same(lensnet_node *node, lensnet_error *error)
{
    lnp_activation *y = &node->graph->tensors[node->output];
    const lnp_activation *x = &node->graph->tensors[node->inputs[0]];
    (void)error;
    y->h = x->h;
    y->w = x->w;
    y->c = x->c;
    return LENSNET_OK;
}

/* Checks the node in its place and gives it its output; the graph is poisoned where it does not fit. */
static int lnp_node_commit(lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    lnp_activation *y = &g->tensors[g->tensor_count];
    memset(y, 0, sizeof *y);
    y->producer = (int)g->node_count;
    y->last_consumer = y->value = y->gradient = -1;
    node->output = (int)g->tensor_count;
    if ((node->op->shape ? node->op->shape : lnp_shape_same)(node, &g->failure)) return 0;
    y->wants_gradient = lnp_node_wants_gradient(node);
    g->node_count++;
    if (node->op->flags & LENSNET_IS_LOSS)
        node->output = -1;
    else
        g->tensor_count++;
    return 1;
}

/* The node that a recording call makes, or NULL: then the graph is poisoned. */
static lensnet_node *lnp_node_record(lensnet_graph *g, const lensnet_operator *op,
                                     const lensnet_tensor *inputs,
                                     const lensnet_parameter *parameters, const void *options,
                                     int as_loss)
{
    lensnet_node *node = lnp_node_begin(g, op);
    if (!node) return NULL;
    if (lnp_operator_check(op, as_loss, &g->failure)) return NULL;
    if (lnp_node_connect(node, inputs, parameters, &g->failure)) return NULL;
    if (op->option_bytes) memcpy(node->options.bytes, options, op->option_bytes);
    return lnp_node_commit(node) ? node : NULL;
}

lensnet_tensor lensnet_record(lensnet_graph *g, const lensnet_operator *op,
                              const lensnet_tensor *inputs, const lensnet_parameter *parameters,
                              const void *options)
{
    const lensnet_node *node = lnp_node_record(g, op, inputs, parameters, options, 0);
    lensnet_tensor result;
    result.index = node ? node->output : -1;
    return result;
}

static int lnp_loss_weight_valid(float weight) { return weight >= 0.0f && weight < 3.0e38f; }

/* The name of a loss's targets; NULL where the operator needs none. */
static lensnet_result lnp_loss_name(lnp_loss *loss, const lensnet_operator *op, const char *target,
                                    lensnet_error *error)
{
    const size_t length = target ? strlen(target) : 0;
    if (length >= LNP_TARGET_CAPACITY || (!length && !op->begin))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "%s: the target's name must have 1 ... %d bytes", op->name,
                        LNP_TARGET_CAPACITY - 1);
    if (length) memcpy(loss->target, target, length + 1);
    return LENSNET_OK;
}

static lensnet_node *lnp_loss_record(lensnet_graph *g, const lensnet_operator *op, lensnet_tensor x,
                                     const char *target, float weight, const void *options)
{
    lensnet_node *node = lnp_node_record(g, op, &x, NULL, options, 1);
    lnp_loss *loss;
    if (!node) return NULL;
    loss = &g->losses[g->loss_count];
    if (g->loss_count == LENSNET_LOSSES) {
        lnp_fail(&g->failure, LENSNET_ERROR_ARGUMENT, "%s: a graph has at most %d losses", op->name,
                 LENSNET_LOSSES);
        return NULL;
    }
    memset(loss, 0, sizeof *loss);
    if (lnp_loss_name(loss, op, target, &g->failure)) return NULL;
    if (!lnp_loss_weight_valid(weight)) {
        lnp_fail(&g->failure, LENSNET_ERROR_ARGUMENT, "%s: the weight must be finite and >= 0",
                 op->name);
        return NULL;
    }
    loss->node = (int)g->node_count - 1;
    loss->weight = weight;
    node->loss = g->loss_count++;
    return node;
}

void lensnet_record_loss(lensnet_graph *g, const lensnet_operator *op, lensnet_tensor x,
                         const char *target, float weight, const void *options)
{
    if (lnp_loss_record(g, op, x, target, weight, options) && g->logits < 0) lensnet_output(g, x);
}

void lensnet_output(lensnet_graph *g, lensnet_tensor logits)
{
    if (!g || g->failure.code) return;
    if (!lnp_tensor_valid(g, logits)) {
        lnp_fail(&g->failure, LENSNET_ERROR_ARGUMENT, "output: not a tensor of this graph");
        return;
    }
    g->logits = logits.index;
    g->tensors[logits.index].kept = 1;
}

void lensnet_keep(lensnet_graph *g, lensnet_tensor x)
{
    if (g && lnp_tensor_valid(g, x) && !g->planned) g->tensors[x.index].kept = 1;
}

/* --- planning ---------------------------------------------------------------------------------- */

/* A buffer of `floats` for every sample, or -1 without memory (then the graph is poisoned). */
static int lnp_buffer_add(lensnet_graph *g, size_t floats_per_sample, int first, int last)
{
    lnp_buffer *buffer;
    size_t floats;
    if (g->failure.code) return -1;
    if (!lnp_multiply(floats_per_sample, g->micro_batch, &floats) || floats > SIZE_MAX / 64) {
        lnp_fail(&g->failure, LENSNET_ERROR_MEMORY,
                 "a tensor of the graph is too large to address");
        return -1;
    }
    if (!lnp_grow(&g->host, (void **)&g->buffers, g->buffer_count, &g->buffer_capacity,
                  sizeof *g->buffers)) {
        lnp_fail(&g->failure, LENSNET_ERROR_MEMORY, "out of memory while planning");
        return -1;
    }
    buffer = &g->buffers[g->buffer_count];
    buffer->floats = lnp_round_up(lnp_max(floats, 1), 16);
    buffer->first = first;
    buffer->last = last;
    buffer->offset = 0;
    return (int)g->buffer_count++;
}

static int lnp_node_index(const lensnet_node *node) { return (int)(node - node->graph->nodes); }
static int lnp_backward_time(const lensnet_graph *g, int node)
{
    return 2 * (int)g->node_count - 1 - node;
}

/* An intermediate of the node that its backward reads; in a graph that only runs forward it lives for
 * one execution. */
static int lnp_saved_add(const lensnet_node *node, size_t floats_per_sample)
{
    lensnet_graph *g = node->graph;
    const int index = lnp_node_index(node);
    return lnp_buffer_add(g, floats_per_sample, index,
                          g->options.training ? lnp_backward_time(g, index) : index);
}

static size_t lnp_pixels(const lnp_activation *t) { return t->h * t->w; }
static size_t lnp_sample_floats(const lnp_activation *t) { return t->h * t->w * t->c; }

/* The last execution in which a node reads the value of a tensor. */
static int lnp_last_reading(const lensnet_node *node, int tensor)
{
    const int index = lnp_node_index(node), flags = node->op->flags;
    int k, reads = 0, again = node->output == tensor && flags & LENSNET_READS_OUTPUT;
    for (k = 0; k < LENSNET_MAX_INPUTS; k++) reads |= node->inputs[k] == tensor;
    again |= reads && flags & LENSNET_READS_INPUT;
    if (again && node->graph->options.training) return lnp_backward_time(node->graph, index);
    return reads ? index : -1;
}

static int lnp_value_end(const lensnet_graph *g, int tensor)
{
    const lnp_activation *t = &g->tensors[tensor];
    int last = t->producer;
    size_t i;
    if (t->kept) return 2 * (int)g->node_count;
    for (i = 0; i < g->node_count; i++) {
        const int reading = lnp_last_reading(&g->nodes[i], tensor);
        if (reading > last) last = reading;
    }
    return last;
}

/* A node has a backward if it is a loss or its output gets a gradient; a branch that ends in no loss has
 * none. */
static int lnp_has_backward(const lensnet_node *node)
{
    const lnp_activation *y;
    if (node->output < 0) return 1;
    y = &node->graph->tensors[node->output];
    return y->wants_gradient && y->last_consumer >= 0;
}

static void lnp_find_consumers(lensnet_graph *g)
{
    size_t i;
    int k;
    for (i = 0; i < g->tensor_count; i++) g->tensors[i].last_consumer = -1;
    for (i = g->node_count; i-- > 0;) {
        const lensnet_node *node = &g->nodes[i];
        for (k = 0; k < node->op->inputs && lnp_has_backward(node); k++)
            if (g->tensors[node->inputs[k]].last_consumer < 0)
                g->tensors[node->inputs[k]].last_consumer = (int)i;
    }
}

static void lnp_plan_tensors(lensnet_graph *g)
{
    size_t i;
    lnp_find_consumers(g);
    for (i = 0; i < g->tensor_count; i++) {
        lnp_activation *t = &g->tensors[i];
        t->value = lnp_buffer_add(g, lnp_sample_floats(t), t->producer, lnp_value_end(g, (int)i));
        t->gradient = -1;
        if (t->wants_gradient && t->last_consumer >= 0)
            t->gradient = lnp_buffer_add(
                g, lnp_sample_floats(t), lnp_backward_time(g, t->last_consumer),
                t->kept ? 2 * (int)g->node_count : lnp_backward_time(g, t->producer));
    }
}

/* Where backward of a node writes the gradient of input k: 0 nowhere, 1 the first to write, 2 a later
 * one, whose part is added. */
static int lnp_gradient_turn(const lensnet_node *node, int k)
{
    const lnp_activation *t;
    int earlier;
    if (node->inputs[k] < 0) return 0;
    t = &node->graph->tensors[node->inputs[k]];
    if (t->gradient < 0) return 0;
    if (t->last_consumer > lnp_node_index(node)) return 2;
    for (earlier = 0; earlier < k; earlier++)
        if (node->inputs[earlier] == node->inputs[k]) return 2;
    return 1;
}

/* Floats for a gradient of input k that is to be added to another part. */
static size_t lnp_part_floats(const lensnet_node *node, int k)
{
    const lensnet_graph *g = node->graph;
    if (lnp_gradient_turn(node, k) != 2) return 0;
    return lnp_round_up(g->micro_batch * lnp_sample_floats(&g->tensors[node->inputs[k]]), 16);
}

static void lnp_plan_nodes(lensnet_graph *g)
{
    size_t i;
    int k;
    g->scratch_floats = lnp_pack_scratch_floats(g->parameters);
    for (i = 0; i < g->node_count; i++) {
        lensnet_node *node = &g->nodes[i];
        for (k = 0; k < LENSNET_MAX_KEPT; k++) node->saved[k] = -1;
        node->scratch = 0;
        if (node->op->plan) node->op->plan(node);
        node->scratch = lnp_round_up(node->scratch, 16);
        node->gradients_end = i ? g->nodes[i - 1].gradients_end : 0;
        for (k = 0; k < LENSNET_MAX_INPUTS; k++) node->scratch += lnp_part_floats(node, k);
        for (k = 0; k < LENSNET_MAX_PARAMETERS; k++)
            if (node->parameters[k] >= 0)
                node->gradients_end = lnp_max(node->gradients_end,
                                              lnp_weight_end(g->parameters, node->parameters[k]));
        g->scratch_floats = lnp_max(g->scratch_floats, node->scratch);
    }
}

/* Places buffers from the largest to the smallest, each at the lowest offset that is free for all of
 * its life. Quadratic, and a graph has hundreds of buffers at most. */
static lensnet_result lnp_place(lensnet_graph *g)
{
    size_t placed, i, total = 0;
    int *order = (int *)lnp_allocate(&g->host, g->buffer_count * sizeof(int));
    if (!order) return lnp_fail(&g->failure, LENSNET_ERROR_MEMORY, "out of memory while planning");
    for (i = 0; i < g->buffer_count; i++) { /* insertion sort by size, then by number */
        size_t j = i;
        while (j > 0 && g->buffers[order[j - 1]].floats < g->buffers[i].floats) {
            order[j] = order[j - 1];
            j--;
        }
        order[j] = (int)i;
    }
    for (placed = 0; placed < g->buffer_count; placed++) {
        lnp_buffer *b = &g->buffers[order[placed]];
        size_t offset = 0;
        int moved = 1;
        while (moved) {
            moved = 0;
            for (i = 0; i < placed; i++) {
                const lnp_buffer *o = &g->buffers[order[i]];
                if (o->first > b->last || b->first > o->last) continue;
                if (offset + b->floats <= o->offset || o->offset + o->floats <= offset) continue;
                offset = o->offset + o->floats;
                moved = 1;
            }
        }
        b->offset = offset;
        total = lnp_max(total, offset + b->floats);
    }
    g->activation_floats = total;
    lnp_release(&g->host, order, g->buffer_count * sizeof(int));
    return LENSNET_OK;
}

static lensnet_result lnp_plan_at(lensnet_graph *g, size_t micro_batch)
{
    g->micro_batch = micro_batch;
    g->buffer_count = 0;
    lnp_plan_tensors(g);
    lnp_plan_nodes(g);
    if (g->failure.code) return g->failure.code;
    return lnp_place(g);
}

/* More images at a time feed the matrix products of the late stages better; beyond these sizes the
 * activations only leave the caches. Training Tiny at 224, batch 32, with 64, 32 and 16 M floats takes
 * 938, 820 and 762 MB: in the same time on a quiet machine, the last up to 5 % slower where neighbours use
 * the memory (tools/bench.c). */
#define LNP_TRAINING_FLOATS ((size_t)16 << 20)
#define LNP_FORWARD_FLOATS  ((size_t)4 << 20)

/* Batch norm's statistics are those of the whole batch. */
static int lnp_is_whole(const lensnet_graph *g)
{
    size_t i;
    for (i = 0; i < g->node_count && g->options.training; i++)
        if (g->nodes[i].op->flags & LENSNET_WHOLE_BATCH) return 1;
    return 0;
}

static lensnet_result lnp_plan_micro_batch(lensnet_graph *g)
{
    size_t most = g->options.training ? LNP_TRAINING_FLOATS : LNP_FORWARD_FLOATS;
    size_t n = g->options.micro_batch ? lnp_min(g->options.micro_batch, g->options.batch)
                                      : lnp_min(g->options.batch, 64);
    lensnet_result result;
    if (lnp_is_whole(g)) g->options.micro_batch = n = g->options.batch;
    result = lnp_plan_at(g, n);
    while (!result && !g->options.micro_batch && n > 1 && g->activation_floats > most) {
        n = (n + 1) / 2;
        result = lnp_plan_at(g, n);
    }
    return result;
}

static size_t lnp_memory_bytes(const lensnet_graph *g)
{
    return (g->activation_floats + g->scratch_floats) * sizeof(float);
}

static size_t lnp_plan_bytes(const lensnet_graph *g)
{
    return lnp_memory_bytes(g) + lnp_missing_packed_bytes(g->parameters);
}

/* Fewer images at a time cost least, then computing the wide layers twice. */
static lensnet_result lnp_plan_within_limit(lensnet_graph *g)
{
    const size_t limit = g->options.memory_limit ? g->options.memory_limit : SIZE_MAX;
    lensnet_result result = lnp_plan_micro_batch(g);
    while (!result && lnp_plan_bytes(g) > limit) {
        size_t n = g->micro_batch;
        if (!g->options.micro_batch && n > 1)
            n = (n + 1) / 2;
        else if (g->options.training && !g->options.recompute)
            g->options.recompute = 1;
        else
            return lnp_fail(&g->failure, LENSNET_ERROR_MEMORY,
                            "graph: it needs %.1f MB at least, and memory_limit is %.1f MB",
                            (double)lnp_plan_bytes(g) / 1e6, (double)limit / 1e6);
        result = lnp_plan_at(g, n);
    }
    return result;
}

static lensnet_result lnp_plan_check(lensnet_graph *g, lensnet_error *error)
{
    if (!g) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "graph: NULL");
    if (g->failure.code) return lnp_fail(error, g->failure.code, "%s", g->failure.text);
    if (g->logits < 0)
        return lnp_fail(error, LENSNET_ERROR_STATE,
                        "graph: no output; record lensnet_cross_entropy or lensnet_output last");
    if (g->input < 0) return lnp_fail(error, LENSNET_ERROR_STATE, "graph: no lensnet_input");
    return LENSNET_OK;
}

lensnet_result lensnet_graph_plan(lensnet_graph *g, lensnet_plan *plan, lensnet_error *error)
{
    lensnet_result result = lnp_plan_check(g, error);
    size_t i;
    if (result) return result;
    if (!g->planned && lnp_plan_within_limit(g))
        return lnp_fail(error, g->failure.code, "%s", g->failure.text);
    g->planned = 1;
    if (!plan) return LENSNET_OK;
    memset(plan, 0, sizeof *plan);
    plan->activation_bytes = g->activation_floats * sizeof(float);
    plan->scratch_bytes = g->scratch_floats * sizeof(float);
    plan->packed_bytes = lnp_missing_packed_bytes(g->parameters);
    plan->bytes = lnp_plan_bytes(g);
    plan->micro_batch = g->micro_batch;
    plan->recompute = g->options.training && g->options.recompute;
    for (i = 0; i < g->node_count; i++)
        if (g->nodes[i].op->macs) plan->macs += g->nodes[i].op->macs(&g->nodes[i]);
    return LENSNET_OK;
}

lensnet_result lensnet_graph_allocate(lensnet_graph *g, lensnet_error *error)
{
    lensnet_result result;
    if (!g || !g->planned)
        return lnp_fail(error, LENSNET_ERROR_STATE, "graph: call lensnet_graph_plan first");
    if (g->memory) return lnp_fail(error, LENSNET_ERROR_STATE, "graph is allocated already");
    result = lnp_arithmetic_check(lnp_detect_isa(g->host.isa_cap), error);
    if (result) return result;
    result = lnp_allocate_packed(g->parameters, error);
    if (result) return result;
    g->memory_bytes = lnp_memory_bytes(g);
    g->memory = (float *)lnp_allocate(&g->host, g->memory_bytes);
    if (!g->memory)
        return lnp_fail(error, LENSNET_ERROR_MEMORY,
                        "out of memory for a graph of %.1f MB; a smaller micro_batch takes less",
                        (double)g->memory_bytes / 1e6);
    return LENSNET_OK;
}

/* --- running ----------------------------------------------------------------------------------- */

#define LNP_PIECE ((size_t)8192) /* floats an elementwise worker takes at a time: a third of L1 */

static size_t lnp_piece_count(size_t n) { return lnp_ceil_div(n, LNP_PIECE); }

static size_t lnp_piece_floats(size_t piece, size_t n)
{
    return lnp_min(LNP_PIECE, n - piece * LNP_PIECE);
}

/* y = kernel(a) or kernel(a, b), or 0 without one. */
typedef struct lnp_elements {
    float *y;
    const float *a, *b;
    size_t n;
    void (*one)(float *, const float *, size_t);
    void (*two)(float *, const float *, const float *, size_t);
} lnp_elements;

static void lnp_elements_task(const void *context, size_t piece, size_t worker)
{
    const lnp_elements *e = (const lnp_elements *)context;
    const size_t at = piece * LNP_PIECE, count = lnp_piece_floats(piece, e->n);
    (void)worker;
    if (e->two)
        e->two(e->y + at, e->a + at, e->b + at, count);
    else if (e->one)
        e->one(e->y + at, e->a + at, count);
    else
        memset(e->y + at, 0, count * sizeof(float));
}

static void lnp_zero_parallel(lensnet_graph *g, float *y, size_t n)
{
    lnp_elements e = {NULL, NULL, NULL, 0, NULL, NULL};
    e.y = y;
    e.n = n;
    lnp_team_run(&g->team, lnp_elements_task, &e, lnp_piece_count(n));
}

/* y = kernel(a, b) for n values. */
static void lnp_combine(lensnet_graph *g,
                        void (*kernel)(float *, const float *, const float *, size_t), float *y,
                        const float *a, const float *b, size_t n)
{
    lnp_elements e = {NULL, NULL, NULL, 0, NULL, NULL};
    e.y = y;
    e.a = a;
    e.b = b;
    e.n = n;
    e.two = kernel;
    lnp_team_run(&g->team, lnp_elements_task, &e, lnp_piece_count(n));
}

static void lnp_add_parallel(lensnet_graph *g, float *y, const float *a, const float *b, size_t n)
{
    lnp_combine(g, g->kernels.add, y, a, b, n);
}

static float *lnp_buffer_place(const lensnet_graph *g, int buffer)
{
    return buffer < 0 ? NULL : g->memory + g->buffers[buffer].offset;
}

static float *lnp_tensor_value(const lensnet_graph *g, int tensor)
{
    return lnp_buffer_place(g, g->tensors[tensor].value);
}

static float *lnp_tensor_gradient(const lensnet_graph *g, int tensor)
{
    return lnp_buffer_place(g, g->tensors[tensor].gradient);
}

/* Floats of a tensor in the micro-batch that is being computed. */
static size_t lnp_tensor_floats(const lensnet_graph *g, int tensor)
{
    return g->run.n * lnp_sample_floats(&g->tensors[tensor]);
}

/* Parts of gradients that are to be added lie at the end of the node's scratch. */
static void lnp_backward_node(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    float *spare = g->run.scratch + node->scratch;
    int k;
    if (!lnp_has_backward(node)) return;
    for (k = 0; k < LENSNET_MAX_INPUTS; k++) {
        const int turn = lnp_gradient_turn(node, k);
        spare -= lnp_part_floats(node, k);
        g->run.dx[k] = turn == 2 ? spare : turn ? lnp_tensor_gradient(g, node->inputs[k]) : NULL;
    }
    node->op->backward(node);
    for (k = 0; k < LENSNET_MAX_INPUTS; k++)
        if (lnp_gradient_turn(node, k) == 2) {
            float *sum = lnp_tensor_gradient(g, node->inputs[k]);
            lnp_add_parallel(g, sum, sum, g->run.dx[k], lnp_tensor_floats(g, node->inputs[k]));
        }
}

/* Copies this micro-batch's part of a tensor to where the whole batch's is wanted. */
static void lnp_collect(const lensnet_graph *g, float *to, int tensor, const float *from)
{
    if (to)
        memcpy(to + g->run.first * lnp_sample_floats(&g->tensors[tensor]), from,
               lnp_tensor_floats(g, tensor) * sizeof(float));
}

/* Losses without targets are passed over, and what is computed only where it is collected. */
static int lnp_is_due(const lensnet_graph *g, const lensnet_node *node)
{
    if (node->loss >= 0) return g->losses[node->loss].given;
    return g->tensors[node->output].kept != LNP_KEPT_ASIDE ||
           (g->run.collected && g->run.collect == node->output);
}

static void lnp_run_forward(const lensnet_graph *g)
{
    const lnp_run *run = &g->run;
    size_t i;
    for (i = 0; i < g->node_count; i++)
        if (lnp_is_due(g, &g->nodes[i])) g->nodes[i].op->forward(&g->nodes[i]);
    if (run->outputs)
        lnp_collect(g, run->outputs->logits, g->logits, lnp_tensor_value(g, g->logits));
    if (run->collected)
        lnp_collect(g, run->collected, run->collect, lnp_tensor_value(g, run->collect));
}

/* Finishes the gradients from number `first` on, to which no operator will add. */
static void lnp_complete(lensnet_graph *g, size_t first)
{
    lnp_run *run = &g->run;
    if (first < run->incomplete)
        lnp_gradients_channels_first(g->parameters, first, run->incomplete, run->scratch,
                                     g->scratch_floats, &g->team);
    run->incomplete = lnp_min(first, run->incomplete);
    if (run->batch->complete) run->batch->complete(run->incomplete, run->batch->user);
}

static void lnp_run_backward(lensnet_graph *g, int is_last)
{
    size_t i;
    for (i = g->node_count; i-- > 0;) {
        lnp_backward_node(&g->nodes[i]);
        if (is_last) lnp_complete(g, i ? g->nodes[i - 1].gradients_end : 0);
    }
    if (g->run.outputs && g->options.input_gradient)
        lnp_collect(g, g->run.outputs->input_gradients, g->input, lnp_tensor_gradient(g, g->input));
}

lensnet_batch lensnet_batch_defaults(void)
{
    lensnet_batch b;
    memset(&b, 0, sizeof b);
    b.channels = 1;
    return b;
}

static lensnet_result lnp_batch_check(const lensnet_graph *g, const lensnet_batch *b, int backward,
                                      lensnet_error *error)
{
    size_t channels;
    if (!g || !g->memory)
        return lnp_fail(error, LENSNET_ERROR_STATE, "graph: call lensnet_graph_allocate first");
    if (!b || !b->images || b->count == 0 || b->count > g->options.batch)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "batch: expected images and a count of 1 ... %zu, got %zu",
                        g->options.batch, b ? b->count : (size_t)0);
    channels = g->tensors[g->input].c;
    if (b->channels != 1 && b->channels != channels)
        return lnp_fail(error, LENSNET_ERROR_SHAPE, "batch: expected 1 or %zu channels, got %zu",
                        channels, b->channels);
    if (backward && (!g->options.training || !g->loss_count || !g->parameters->gradients))
        return lnp_fail(
            error, LENSNET_ERROR_STATE,
            "backward: the graph must be recorded for training, with a loss, over parameters "
            "allocated with gradients");
    if (b->named_count && !b->named)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "batch: the named targets are NULL");
    if ((b->first || b->total) && (b->count > b->total || b->first > b->total - b->count))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "batch: images %zu ... %zu are no part of a batch of %zu", b->first,
                        b->first + b->count, b->total);
    if (!(b->total_weight >= 0.0 && b->total_weight < 1e300))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "batch: a total weight of %g, expected >= 0",
                        b->total_weight);
    return LENSNET_OK;
}

/* Images of the batch, or of the whole that it is a part of. */
static size_t lnp_batch_total(const lensnet_batch *b) { return b->total ? b->total : b->count; }

/* The number in that whole of image `i` of the micro-batch: it names random numbers. */
static uint64_t lnp_image_number(const lnp_run *run, size_t i)
{
    return (uint64_t)run->batch->first + run->first + i;
}

/* What a loss does before a batch if it has no rule of its own: finds its targets by name. It is a mean
 * over all values of its tensor. */
static void lnp_find_targets(lensnet_graph *g, lnp_loss *loss)
{
    const lensnet_batch *b = g->run.batch;
    size_t i;
    loss->targets = NULL;
    for (i = 0; i < b->named_count && !loss->targets; i++)
        if (b->named[i].name && !strcmp(b->named[i].name, loss->target))
            loss->targets = b->named[i].values;
    loss->given = loss->targets != NULL;
    loss->divisor = (double)lnp_batch_total(b) *
                    (double)lnp_sample_floats(&g->tensors[g->nodes[loss->node].inputs[0]]);
}

static lensnet_result lnp_begin_losses(lensnet_graph *g, lensnet_error *error)
{
    int k;
    for (k = 0; k < g->loss_count; k++) {
        lnp_loss *loss = &g->losses[k];
        const lensnet_node *node = &g->nodes[loss->node];
        loss->sum = loss->divisor = 0.0;
        loss->given = 0;
        if (!node->op->begin)
            lnp_find_targets(g, loss);
        else if (node->op->begin(node, error))
            return LENSNET_ERROR_ARGUMENT;
        if (g->run.backward && !loss->given && !loss->target[0])
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "batch: labels or targets are needed");
        if (g->run.backward && !loss->given)
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "batch: the targets \"%s\" of a loss are missing", loss->target);
    }
    return LENSNET_OK;
}

static void lnp_report_losses(lensnet_outputs *outputs, const lensnet_graph *g)
{
    int k;
    outputs->loss = 0.0;
    for (k = 0; k < LENSNET_LOSSES; k++) {
        const lnp_loss *loss = &g->losses[k];
        const int counts = k < g->loss_count && loss->divisor > 0;
        outputs->losses[k] = counts ? loss->sum / loss->divisor : 0.0;
        if (counts) outputs->loss += (double)loss->weight * outputs->losses[k];
    }
}

/* The whole batch, one micro-batch after the other. */
static void lnp_run_pass(void *context)
{
    lensnet_graph *g = (lensnet_graph *)context;
    lensnet_parameters *p = g->parameters;
    lnp_run *run = &g->run;
    lnp_parameters_pack(p, run->scratch, g->scratch_floats, &g->team);
    if (run->backward) lnp_zero_parallel(g, p->gradients, p->size);
    run->incomplete = p->size;
    for (run->first = 0; run->first < run->batch->count; run->first += run->n) {
        run->n = lnp_min(g->micro_batch, run->batch->count - run->first);
        run->turned = 0;
        lnp_run_forward(g);
        run->turned = 1;
        if (run->backward) lnp_run_backward(g, run->first + run->n == run->batch->count);
    }
}

static lensnet_result lnp_run_batch(lensnet_graph *g, const lensnet_batch *batch,
                                    lensnet_outputs *outputs, int backward, float *collected,
                                    lensnet_tensor collect, lensnet_error *error)
{
    lensnet_result result = lnp_batch_check(g, batch, backward, error);
    uint64_t mode;
    if (result) return result;
    memset(&g->run, 0, sizeof g->run);
    g->run.batch = batch;
    g->run.outputs = outputs;
    g->run.backward = backward;
    g->run.collected = collected;
    g->run.collect = collect.index;
    g->run.scratch = g->memory + g->activation_floats;
    mode = lnp_mode_enter();
    result = lnp_begin_losses(g, error);
    if (!result) lnp_team_pass(&g->team, lnp_run_pass, g);
    if (!result && outputs) lnp_report_losses(outputs, g);
    memset(&g->run, 0, sizeof g->run);
    lnp_mode_leave(mode);
    return result;
}

lensnet_result lensnet_forward(lensnet_graph *g, const lensnet_batch *batch,
                               lensnet_outputs *outputs, lensnet_error *error)
{
    return lnp_run_batch(g, batch, outputs, 0, NULL, lnp_no_tensor(), error);
}

lensnet_result lensnet_forward_backward(lensnet_graph *g, const lensnet_batch *batch,
                                        lensnet_outputs *outputs, lensnet_error *error)
{
    return lnp_run_batch(g, batch, outputs, 1, NULL, lnp_no_tensor(), error);
}

/* lensnet_forward that also collects a kept tensor of every sample; `collected` may be NULL. */
static lensnet_result lnp_run_collect(lensnet_graph *g, const lensnet_batch *batch,
                                      lensnet_outputs *outputs, float *collected,
                                      lensnet_tensor collect, lensnet_error *error)
{
    return lnp_run_batch(g, batch, outputs, 0, collected, collect, error);
}

const float *lensnet_tensor_value(const lensnet_graph *g, lensnet_tensor x)
{
    if (!g || !g->memory || !lnp_tensor_valid(g, x) || !g->tensors[x.index].kept) return NULL;
    return lnp_tensor_value(g, x.index);
}

const float *lensnet_tensor_gradient(const lensnet_graph *g, lensnet_tensor x)
{
    if (!g || !g->memory || !lnp_tensor_valid(g, x) || !g->tensors[x.index].kept) return NULL;
    return lnp_tensor_gradient(g, x.index);
}

void lensnet_tensor_shape(const lensnet_graph *g, lensnet_tensor x, size_t *height, size_t *width,
                          size_t *channels)
{
    int valid = g && lnp_tensor_valid(g, x);
    if (height) *height = valid ? g->tensors[x.index].h : 0;
    if (width) *width = valid ? g->tensors[x.index].w : 0;
    if (channels) *channels = valid ? g->tensors[x.index].c : 0;
}

/* --- what an operator's functions may ask ------------------------------------------------------- */

static lensnet_view lnp_view(const lensnet_graph *g, int tensor)
{
    const lnp_activation *t = &g->tensors[tensor];
    lensnet_view view;
    memset(&view, 0, sizeof view);
    view.n = g->run.batch ? g->run.n : g->micro_batch;
    view.h = t->h;
    view.w = t->w;
    view.c = t->c;
    if (g->run.batch) view.value = lnp_tensor_value(g, tensor);
    return view;
}

lensnet_view lensnet_node_input(const lensnet_node *node, int k)
{
    const lensnet_graph *g = node->graph;
    lensnet_view view = lnp_view(g, node->inputs[k]);
    if (g->run.turned && !(node->op->flags & LENSNET_READS_INPUT)) view.value = NULL;
    if (g->run.turned) view.gradient = g->run.dx[k];
    return view;
}

lensnet_view lensnet_node_output(const lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    lensnet_view view;
    memset(&view, 0, sizeof view);
    if (node->output < 0) return view;
    view = lnp_view(g, node->output);
    if (g->run.turned && !(node->op->flags & LENSNET_READS_OUTPUT)) view.value = NULL;
    if (g->run.turned) view.gradient = lnp_tensor_gradient(g, node->output);
    return view;
}

lensnet_weight lensnet_node_weight(const lensnet_node *node, int k)
{
    const lensnet_parameters *p = node->graph->parameters;
    lensnet_weight weight;
    memset(&weight, 0, sizeof weight);
    if (node->parameters[k] < 0) return weight;
    weight.size = p->weights[node->parameters[k]].size;
    if (!node->graph->run.batch) return weight;
    weight.values = lnp_weight_values(p, node->parameters[k]);
    if (p->gradients) weight.gradients = lnp_weight_gradient(p, node->parameters[k]);
    return weight;
}

int lensnet_node_training(const lensnet_node *node) { return node->graph->options.training; }

const lensnet_batch *lensnet_node_batch(const lensnet_node *node, size_t *first)
{
    if (first) *first = node->graph->run.first;
    return node->graph->run.batch;
}

void lensnet_node_shape(lensnet_node *node, size_t height, size_t width, size_t channels)
{
    lnp_activation *y = &node->graph->tensors[node->output];
    y->h = height;
    y->w = width;
    y->c = channels;
}

void lensnet_node_keep(lensnet_node *node, size_t floats)
{
    int k = 0;
    while (k < LENSNET_MAX_KEPT && node->saved[k] >= 0) k++;
    if (k < LENSNET_MAX_KEPT)
        node->saved[k] = lnp_saved_add(node, floats);
    else
        lnp_fail(&node->graph->failure, LENSNET_ERROR_ARGUMENT, "%s: keeps more than %d buffers",
                 node->op->name, LENSNET_MAX_KEPT);
}

float *lensnet_node_kept(const lensnet_node *node, int number)
{
    return lnp_buffer_place(node->graph, node->saved[number]);
}

void lensnet_node_reserve(lensnet_node *node, size_t floats) { node->scratch += floats; }

float *lensnet_node_scratch(const lensnet_node *node) { return node->graph->run.scratch; }

void lensnet_node_run(const lensnet_node *node, lensnet_task task, size_t count)
{
    lnp_team_run(&node->graph->team, task, node, count);
}

/* The targets of this micro-batch's first sample. */
const float *lensnet_loss_targets(const lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    const float *targets = g->losses[node->loss].targets;
    return targets ? targets + g->run.first * lnp_sample_floats(&g->tensors[node->inputs[0]])
                   : NULL;
}

void lensnet_loss_add(const lensnet_node *node, double sum)
{
    node->graph->losses[node->loss].sum += sum;
}

double lensnet_loss_scale(const lensnet_node *node)
{
    const lnp_loss *loss = &node->graph->losses[node->loss];
    return loss->divisor > 0 ? (double)loss->weight / loss->divisor : 0.0;
}

void lensnet_loss_given(const lensnet_node *node, double divisor)
{
    node->graph->losses[node->loss].given = 1;
    node->graph->losses[node->loss].divisor = divisor;
}
/* =================================================================================================
 * >>operators-impl  Each operator in order: recording, shape rule, plan, forward, backward.
 * Nothing here computes in an inner loop: the work is in the kernels, the order of sums with them
 * (>>rows). A worker owns outputs, or whole parts of a sum whose bounds the law sets, so the number of
 * threads cannot be seen in the results. The description closes each operator, and the recording call
 * after it is all that names it.
 * ============================================================================================== */

/* --- work shared by several operators ---------------------------------------------------------- */

/* Columns are cut into strips for sums down the rows: a strip belongs to one worker. */
#define LNP_STRIP_COLUMNS ((size_t)512)

static size_t lnp_strip_width(size_t columns, int threads)
{
    size_t width = lnp_round_up(lnp_ceil_div(columns, (size_t)threads), 16);
    return lnp_min(lnp_max(width, 32), LNP_STRIP_COLUMNS);
}

/* The chunk that begins at `row`, where every sample has `pixels` rows (the law of >>rows). */
typedef struct lnp_chunk {
    size_t rows, index; /* counted through all samples */
} lnp_chunk;

static size_t lnp_chunk_count(size_t pixels) { return lnp_ceil_div(pixels, LNP_CHUNK_ROWS); }

static lnp_chunk lnp_chunk_at(size_t row, size_t pixels)
{
    const size_t pixel = row % pixels;
    lnp_chunk chunk;
    chunk.rows = lnp_min(LNP_CHUNK_ROWS, pixels - pixel);
    chunk.index = row / pixels * lnp_chunk_count(pixels) + pixel / LNP_CHUNK_ROWS;
    return chunk;
}

/* gradient[c] += the sums of all chunks, (chunks, columns), in order. */
static void lnp_add_chunks(const lensnet_graph *g, float *gradient, const float *sums,
                           size_t chunks, size_t columns)
{
    if (gradient) g->kernels.column_sum(gradient, sums, columns, chunks, columns);
}

static const float *lnp_parameter_values(const lensnet_node *node, int k)
{
    return lnp_weight_values(node->graph->parameters, node->parameters[k]);
}

static float *lnp_parameter_gradient(const lensnet_node *node, int k)
{
    return lnp_weight_gradient(node->graph->parameters, node->parameters[k]);
}

static lnp_weight *lnp_parameter_of(const lensnet_node *node, int k)
{
    return &node->graph->parameters->weights[node->parameters[k]];
}

/* Shapes of the first input and of the output. */
static lnp_activation *lnp_in(const lensnet_node *node)
{
    return &node->graph->tensors[node->inputs[0]];
}

static lnp_activation *lnp_out(const lensnet_node *node)
{
    return &node->graph->tensors[node->output];
}

static float *lnp_input_value(const lensnet_node *node, int k)
{
    return lnp_tensor_value(node->graph, node->inputs[k]);
}

/* Where backward writes the gradient of input k; NULL: not wanted. */
static float *lnp_input_gradient(const lensnet_node *node, int k) { return node->graph->run.dx[k]; }

static float *lnp_output_value(const lensnet_node *node)
{
    return lnp_tensor_value(node->graph, node->output);
}

static const float *lnp_output_gradient(const lensnet_node *node)
{
    return lnp_tensor_gradient(node->graph, node->output);
}

typedef struct lnp_bias_sums {
    const lnp_row_kernels *kernels;
    float *gradient;
    const float *dy, *x;                 /* x: NULL for a bias */
    size_t rows, pixels, columns, width; /* of a strip */
} lnp_bias_sums;

static void lnp_bias_strip(const void *context, size_t strip, size_t worker)
{
    const lnp_bias_sums *b = (const lnp_bias_sums *)context;
    const size_t c = strip * b->width, count = lnp_min(b->width, b->columns - c);
    float *gradient = b->gradient + c, sums[LNP_STRIP_COLUMNS];
    lnp_chunk chunk;
    size_t row;
    (void)worker;
    for (row = 0; row < b->rows; row += chunk.rows) {
        chunk = lnp_chunk_at(row, b->pixels);
        memset(sums, 0, count * sizeof(float));
        if (b->x)
            b->kernels->column_products(sums, b->dy + row * b->columns + c,
                                        b->x + row * b->columns + c, b->columns, chunk.rows, count);
        else
            b->kernels->column_sum(sums, b->dy + row * b->columns + c, b->columns, chunk.rows,
                                   count);
        b->kernels->add(gradient, gradient, sums, count);
    }
}

/* gradient[c] += sum over all rows of dy[row][c], times x[row][c] where x is given, chunk by chunk. */
static void lnp_column_gradient(const lensnet_node *node, int parameter, const float *dy,
                                const float *x)
{
    lensnet_graph *g = node->graph;
    lnp_bias_sums b;
    b.gradient = lnp_parameter_gradient(node, parameter);
    if (!b.gradient) return;
    b.kernels = &g->kernels;
    b.dy = dy;
    b.x = x;
    b.pixels = lnp_pixels(lnp_out(node));
    b.rows = g->run.n * b.pixels;
    b.columns = lnp_out(node)->c;
    b.width = lnp_strip_width(b.columns, g->team.threads);
    lnp_team_run(&g->team, lnp_bias_strip, &b, lnp_ceil_div(b.columns, b.width));
}

/* Declares that parameter k is read as a vector of `count` values, whatever its shape. */
lensnet_result lensnet_node_expect(const lensnet_node *node, int k, size_t count,
                                   lensnet_error *error)
{
    lnp_weight *w;
    if (node->parameters[k] < 0) return LENSNET_OK;
    w = lnp_parameter_of(node, k);
    if (w->size != count || w->use > LNP_USE_PLAIN)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "%s: parameter \"%s\" has %zu values, expected %zu%s", node->op->name,
                        w->name, w->size, count,
                        w->size == count ? ", and another operator uses it in another way" : "");
    if (!node->graph->parameters->frozen) w->use = LNP_USE_PLAIN;
    return LENSNET_OK;
}

/* Declares that parameter k is read as matrices; `backward` where dX is needed. */
static lensnet_result lnp_use_matrix(const lensnet_node *node, int k, size_t groups, int backward,
                                     lensnet_error *error)
{
    const lensnet_graph *g = node->graph;
    lnp_weight *w = lnp_parameter_of(node, k);
    if (w->use == LNP_USE_PLAIN || w->use == LNP_USE_DEPTHWISE ||
        (w->use == LNP_USE_MATRIX && w->groups != groups))
        return lnp_fail(error, LENSNET_ERROR_UNSUPPORTED,
                        "parameter \"%s\" is used by two operators of different kinds", w->name);
    if (g->parameters->frozen) return LENSNET_OK; /* shared between threads: not to be written */
    w->use = LNP_USE_MATRIX;
    w->groups = groups;
    w->n = w->shape[0] / groups;
    w->k = w->size / w->shape[0];
    w->wanted[lnp_copy_of(node->precision, 0)] = 1;
    if (backward && g->options.training) w->wanted[lnp_copy_of(node->precision, 1)] = 1;
    return LENSNET_OK;
}

/* Declares that parameter k is the filter of a direct depthwise convolution of the input. */
static lensnet_result lnp_use_depthwise(const lensnet_node *node, int k, size_t size, size_t stride,
                                        lensnet_error *error)
{
    const lensnet_graph *g = node->graph;
    lnp_weight *w = lnp_parameter_of(node, k);
    size_t c = lnp_in(node)->c;
    if (w->use == LNP_USE_PLAIN || w->use == LNP_USE_MATRIX || w->rank != 4 || w->shape[0] != c ||
        w->size != size * size * c || w->shape[2] != size ||
        (w->use == LNP_USE_DEPTHWISE && w->stride != stride))
        return lnp_fail(
            error, LENSNET_ERROR_SHAPE,
            "depthwise conv2d: parameter \"%s\" is not (%zu, 1, %zu, %zu), or another operator "
            "uses it in another way",
            w->name, c, size, size);
    if (g->parameters->frozen) return LENSNET_OK;
    w->use = LNP_USE_DEPTHWISE;
    w->stride = stride;
    w->wanted[LNP_FORWARD] = 1;
    if (g->options.training && lnp_in(node)->wants_gradient) w->wanted[LNP_BACKWARD] = 1;
    return LENSNET_OK;
}

/* --- input ------------------------------------------------------------------------------------- */

/* -> (N, H, W, C) */

static lensnet_result lnp_input_shape(lensnet_node *node, lensnet_error *error)
{
    const lensnet_graph *g = node->graph;
    const size_t channels = *(const size_t *)lensnet_node_options(node);
    lnp_activation *y = lnp_out(node);
    if (g->input >= 0 || channels == 0)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "input: one per graph, with 1 or more channels");
    y->h = g->options.height;
    y->w = g->options.width;
    y->c = channels;
    return LENSNET_OK;
}

static void lnp_input_row(const void *context, size_t row, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lnp_run *run = &node->graph->run;
    const lnp_activation *y = lnp_out(node);
    const size_t given = run->batch->channels;
    const size_t first = run->first * lnp_pixels(y) + row * y->w;
    const float *from = run->batch->images + first * given;
    float *to = lnp_output_value(node) + row * y->w * y->c;
    size_t i, c;
    (void)worker;
    if (given == y->c)
        memcpy(to, from, y->w * y->c * sizeof(float));
    else
        for (i = 0; i < y->w; i++)
            for (c = 0; c < y->c; c++) *to++ = from[i];
}

static void lnp_input_forward(const lensnet_node *node)
{
    lensnet_node_run(node, lnp_input_row, node->graph->run.n * lnp_out(node)->h);
}

static void lnp_input_backward(const lensnet_node *node) { (void)node; }

static const lensnet_operator lnp_input = {
    "input", /* inputs, weights, of these required, bytes of options, flags: */
    0, 0, 0, sizeof(size_t), 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_input_shape, NULL, lnp_input_forward, lnp_input_backward, NULL, NULL};

lensnet_tensor lensnet_input(lensnet_graph *g, size_t channels)
{
    lensnet_tensor x = lensnet_record(g, &lnp_input, NULL, NULL, &channels);
    if (x.index < 0) return x;
    g->input = x.index;
    g->tensors[x.index].wants_gradient = g->options.training && g->options.input_gradient;
    if (g->options.input_gradient) g->tensors[x.index].kept = 1;
    return x;
}

/* --- linear ------------------------------------------------------------------------------------ */

/* x (N, H, W, C), weight (K, C), bias (K) -> y (N, H, W, K). A pixel is a row: y = x W^T + b. */

static lensnet_result lnp_linear_shape(lensnet_node *node, lensnet_error *error)
{
    const lnp_activation *x = lnp_in(node);
    lnp_activation *y = lnp_out(node);
    const lnp_weight *w = lnp_parameter_of(node, 0);
    lensnet_result result;
    if (w->shape[1] != x->c || w->size != w->shape[0] * x->c)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "linear: \"%s\" is (%zu, %zu), expected (K, %zu) for the input's channels",
                        w->name, w->shape[0], w->shape[1], x->c);
    lnp_shape_same(node, error);
    y->c = w->shape[0];
    result = lensnet_node_expect(node, 1, y->c, error);
    return result ? result : lnp_use_matrix(node, 0, 1, x->wants_gradient, error);
}

/* The kernels of the node's matrix products. */
static const lnp_gemm_kernels *lnp_gemm_of(const lensnet_node *node)
{
    return &node->graph->parameters->gemm[node->precision];
}

static size_t lnp_linear_scratch(const lensnet_node *node, size_t m, size_t n, size_t k)
{
    const lensnet_graph *g = node->graph;
    const lnp_gemm_kernels *gemm = lnp_gemm_of(node);
    size_t floats = lnp_product_scratch_floats(gemm, m, k, g->team.threads);
    if (!g->options.training) return floats;
    floats = lnp_max(floats, lnp_product_scratch_floats(gemm, m, n, g->team.threads));
    return lnp_max(floats, lnp_gradient_scratch_floats(gemm, m, n, k, g->team.threads));
}

static void lnp_linear_plan(lensnet_node *node)
{
    const size_t rows = node->graph->micro_batch * lnp_pixels(lnp_in(node));
    node->scratch = lnp_linear_scratch(node, rows, lnp_out(node)->c, lnp_in(node)->c);
}

/* out (m, n) = a (m, k) W^T + bias, with the packed weight of parameter `p`. */
static lnp_product lnp_product_forward(const lensnet_node *node, int p, int bias, size_t m)
{
    const lnp_weight *w = lnp_parameter_of(node, p);
    lnp_product job;
    memset(&job, 0, sizeof job);
    job.m = m;
    job.n = w->n;
    job.k = w->k;
    job.a_stride = w->k;
    job.packed = w->packed[lnp_copy_of(node->precision, 0)];
    job.bias = bias < 0 ? NULL : lnp_parameter_values(node, bias);
    job.out_stride = w->n;
    return job;
}

/* out (m, k) = a (m, n) W: the gradient of a product's input. */
static lnp_product lnp_product_input(const lensnet_node *node, int p, size_t m)
{
    const lnp_weight *w = lnp_parameter_of(node, p);
    lnp_product job;
    memset(&job, 0, sizeof job);
    job.m = m;
    job.n = w->k;
    job.k = w->n;
    job.a_stride = w->n;
    job.packed = w->packed[lnp_copy_of(node->precision, 1)];
    job.out_stride = w->k;
    return job;
}

static lnp_gradient_product lnp_product_weight(const lensnet_node *node, int p, size_t m)
{
    const lnp_weight *w = lnp_parameter_of(node, p);
    lnp_gradient_product job;
    memset(&job, 0, sizeof job);
    job.m = m;
    job.n = w->n;
    job.k = w->k;
    job.dy_stride = w->n;
    job.x_stride = w->k;
    job.dw = lnp_parameter_gradient(node, p);
    job.segment_rows = lnp_pixels(lnp_out(node));
    return job;
}

static void lnp_linear_forward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    lnp_product job = lnp_product_forward(node, 0, 1, g->run.n * lnp_pixels(lnp_in(node)));
    job.a = lnp_input_value(node, 0);
    job.out = lnp_output_value(node);
    lnp_multiply_rows(lnp_gemm_of(node), &job, g->run.scratch, &g->team);
}

static void lnp_linear_backward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    size_t m = g->run.n * lnp_pixels(lnp_in(node));
    const float *dy = lnp_output_gradient(node);
    float *dx = lnp_input_gradient(node, 0);
    lnp_gradient_product weight = lnp_product_weight(node, 0, m);
    weight.dy = dy;
    weight.x = lnp_input_value(node, 0);
    lnp_multiply_gradient(lnp_gemm_of(node), &weight, g->run.scratch, &g->team);
    lnp_column_gradient(node, 1, dy, NULL);
    if (dx) {
        lnp_product input = lnp_product_input(node, 0, m);
        input.a = dy;
        input.out = dx;
        lnp_multiply_rows(lnp_gemm_of(node), &input, g->run.scratch, &g->team);
    }
}

static double lnp_linear_macs(const lensnet_node *node)
{
    return (double)lnp_sample_floats(lnp_out(node)) * (double)lnp_in(node)->c;
}

static const lensnet_operator lnp_linear = {
    "linear", /* inputs, weights, of these required, bytes of options, flags: */
    1, 2, 1, 0, LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_linear_shape, lnp_linear_plan, lnp_linear_forward, lnp_linear_backward, lnp_linear_macs,
    NULL};

lensnet_tensor lensnet_linear(lensnet_graph *g, lensnet_tensor x, lensnet_parameter weight,
                              lensnet_parameter bias)
{
    lensnet_parameter parameters[2];
    parameters[0] = weight;
    parameters[1] = bias;
    return lensnet_record(g, &lnp_linear, &x, parameters, NULL);
}

/* --- conv2d: im2col + GEMM --------------------------------------------------------------------- */

/* x (N, H, W, C), weight (K, C / groups, R, S), bias (K) -> y (N, H', W', K); a row is an output pixel. */

lensnet_conv2d_desc lensnet_conv2d_defaults(void)
{
    lensnet_conv2d_desc d;
    d.stride = 1;
    d.padding = 0;
    d.dilation = 1;
    d.groups = 1;
    return d;
}

static const lensnet_conv2d_desc *lnp_conv_desc(const lensnet_node *node)
{
    return (const lensnet_conv2d_desc *)lensnet_node_options(node);
}

/* Outputs along one axis; 0 if the kernel does not fit. */
static size_t lnp_conv_outputs(size_t in, size_t kernel, size_t stride, size_t padding,
                               size_t dilation)
{
    size_t span = dilation * (kernel - 1) + 1;
    return in + 2 * padding < span ? 0 : (in + 2 * padding - span) / stride + 1;
}

/* The output of a convolution, direct or not; its weights' form is the caller's. */
static lensnet_result lnp_conv_outline(lensnet_node *node, lensnet_error *error)
{
    const lnp_activation *x = lnp_in(node);
    lnp_activation *y = lnp_out(node);
    const lensnet_conv2d_desc *d = lnp_conv_desc(node);
    const lnp_weight *w = lnp_parameter_of(node, 0);
    if (!d->groups || !d->stride || !d->dilation || d->padding > 4096 || d->dilation > 4096 ||
        w->shape[0] % d->groups || x->c % d->groups || w->shape[1] != x->c / d->groups)
        return lnp_fail(
            error, LENSNET_ERROR_SHAPE,
            "conv2d: \"%s\" is (%zu, %zu, %zu, %zu); %zu input channels in %zu groups do "
            "not fit it",
            w->name, w->shape[0], w->shape[1], w->shape[2], w->shape[3], x->c, d->groups);
    y->h = lnp_conv_outputs(x->h, w->shape[2], d->stride, d->padding, d->dilation);
    y->w = lnp_conv_outputs(x->w, w->shape[3], d->stride, d->padding, d->dilation);
    y->c = w->shape[0];
    if (!y->h || !y->w)
        return lnp_fail(
            error, LENSNET_ERROR_SHAPE,
            "conv2d: \"%s\" with a %zu x %zu kernel does not fit a %zu x %zu input; use "
            "larger images",
            w->name, w->shape[2], w->shape[3], x->h, x->w);
    return lensnet_node_expect(node, 1, y->c, error);
}

static lensnet_result lnp_conv_shape(lensnet_node *node, lensnet_error *error)
{
    const lensnet_result result = lnp_conv_outline(node, error);
    if (result) return result;
    return lnp_use_matrix(node, 0, lnp_conv_desc(node)->groups, lnp_in(node)->wants_gradient,
                          error);
}

/* Group `group` of a convolution as a matrix whose rows are output pixels and whose columns are
 * (r, s, c) of the patch. */
typedef struct lnp_patches {
    const float *x;
    size_t h, w, c; /* of the input */
    size_t out_h, out_w;
    size_t r_count, s_count, group_c, first_c;
    size_t stride, padding, dilation;
} lnp_patches;

static lnp_patches lnp_patches_of(const lensnet_node *node, const float *x, size_t group)
{
    const lnp_activation *in = lnp_in(node), *out = lnp_out(node);
    const lensnet_conv2d_desc *d = lnp_conv_desc(node);
    const lnp_weight *w = lnp_parameter_of(node, 0);
    lnp_patches p;
    p.x = x;
    p.h = in->h;
    p.w = in->w;
    p.c = in->c;
    p.out_h = out->h;
    p.out_w = out->w;
    p.r_count = w->shape[2];
    p.s_count = w->shape[3];
    p.group_c = in->c / d->groups;
    p.first_c = group * p.group_c;
    p.stride = d->stride;
    p.padding = d->padding;
    p.dilation = d->dilation;
    return p;
}

/* A place in the patch matrix: an output pixel and a tap with a channel of the group. Moves without
 * divisions, which took more time than the products of the stem. */
typedef struct lnp_patch_place {
    const float *sample;
    size_t out_y, out_x; /* row of the matrix */
    size_t r, s, c;      /* column */
} lnp_patch_place;

static lnp_patch_place lnp_patch_place_of(const lnp_patches *p, size_t row, size_t k)
{
    const size_t per_sample = p->out_h * p->out_w, pixel = row % per_sample;
    lnp_patch_place place;
    place.sample = p->x + row / per_sample * p->h * p->w * p->c + p->first_c;
    place.out_y = pixel / p->out_w;
    place.out_x = pixel % p->out_w;
    place.r = k / p->group_c / p->s_count;
    place.s = k / p->group_c % p->s_count;
    place.c = k % p->group_c;
    return place;
}

static void lnp_patch_next_row(const lnp_patches *p, lnp_patch_place *place)
{
    if (++place->out_x < p->out_w) return;
    place->out_x = 0;
    if (++place->out_y < p->out_h) return;
    place->out_y = 0;
    place->sample += p->h * p->w * p->c;
}

/* What lies together in memory from here on, at most `most` floats: the rest of a tap, or of a row of
 * taps where these are neighbours inside the image. NULL in the padding. Moves on to what follows. */
static const float *lnp_patch_run(const lnp_patches *p, lnp_patch_place *place, size_t most,
                                  size_t *count)
{
    const size_t y = place->out_y * p->stride + place->r * p->dilation - p->padding;
    const size_t x = place->out_x * p->stride + place->s * p->dilation - p->padding;
    const int inside = y < p->h && x < p->w; /* also where the subtraction wrapped */
    const int together = inside && p->dilation == 1 && p->group_c == p->c;
    const size_t taps = together ? lnp_min(p->s_count - place->s, p->w - x) : 1;
    const float *run = inside ? place->sample + (y * p->w + x) * p->c + place->c : NULL;
    *count = lnp_min(most, taps * p->group_c - place->c);
    for (place->c += *count; place->c >= p->group_c; place->c -= p->group_c) place->s++;
    if (place->s == p->s_count) {
        place->s = 0;
        place->r++;
    }
    return run;
}

/* lnp_fill: a rectangle of the patch matrix. */
static void lnp_patches_fill(const void *context, float *rows, size_t stride, size_t first_row,
                             size_t row_count, size_t first_k, size_t k_count)
{
    const lnp_patches *p = (const lnp_patches *)context;
    lnp_patch_place row = lnp_patch_place_of(p, first_row, first_k);
    for (; row_count; row_count--, rows += stride, lnp_patch_next_row(p, &row)) {
        lnp_patch_place place = row;
        size_t k, i, count;
        for (k = 0; k < k_count; k += count) {
            const float *run = lnp_patch_run(p, &place, k_count - k, &count);
            if (!run)
                memset(rows + k, 0, count * sizeof(float));
            else if (count > 16)
                memcpy(rows + k, run, count * sizeof(float));
            else
                for (i = 0; i < count; i++) rows[k + i] = run[i];
        }
    }
}

static size_t lnp_conv_rows(const lensnet_node *node)
{
    return node->graph->micro_batch * lnp_pixels(lnp_out(node));
}

static void lnp_conv_plan(lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    const lnp_weight *w = lnp_parameter_of(node, 0);
    size_t rows = lnp_conv_rows(node);
    node->scratch = lnp_linear_scratch(node, rows, w->n, w->k);
    if (g->options.training) /* the gradient of the patches */
        node->scratch += lnp_round_up(rows * w->k, 16);
}

static void lnp_conv_forward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    size_t group;
    for (group = 0; group < lnp_conv_desc(node)->groups; group++) {
        lnp_patches patches = lnp_patches_of(node, lnp_input_value(node, 0), group);
        lnp_product job = lnp_product_forward(node, 0, 1, g->run.n * lnp_pixels(lnp_out(node)));
        job.fill = lnp_patches_fill;
        job.context = &patches;
        job.packed += group * lnp_packed_floats(lnp_gemm_of(node), job.n, job.k);
        if (job.bias) job.bias += group * job.n;
        job.out = lnp_output_value(node) + group * job.n;
        job.out_stride = lnp_out(node)->c;
        lnp_multiply_rows(lnp_gemm_of(node), &job, g->run.scratch, &g->team);
    }
}

typedef struct lnp_scattering {
    const lnp_row_kernels *kernels;
    float *dx;
    const float *dpatches;
    const lnp_patches *p;
    size_t patches; /* of a unit */
} lnp_scattering;

static void lnp_scatter_unit(const void *context, size_t unit, size_t worker)
{
    const lnp_scattering *s = (const lnp_scattering *)context;
    const lnp_patches *p = s->p;
    const size_t length = p->r_count * p->s_count * p->group_c, first = unit * s->patches;
    const float *from = s->dpatches + first * length;
    lnp_patch_place patch = lnp_patch_place_of(p, first, 0);
    size_t i, k, count;
    (void)worker;
    for (i = 0; i < s->patches; i++, from += length, lnp_patch_next_row(p, &patch)) {
        lnp_patch_place place = patch;
        for (k = 0; k < length; k += count) {
            const float *run = lnp_patch_run(p, &place, length - k, &count);
            float *to = run ? s->dx + (run - p->x) : NULL;
            if (to) s->kernels->add(to, to, from + k, count);
        }
    }
}

/* Adds each patch's gradient to the pixels it came from, in the order of the patches. A worker has a
 * row of patches where rows share no pixels, else a whole sample. */
static void lnp_patches_scatter(lensnet_graph *g, float *dx, const float *dpatches,
                                const lnp_patches *p, size_t samples)
{
    const size_t units = (p->r_count - 1) * p->dilation < p->stride ? p->out_h : 1;
    lnp_scattering s;
    s.kernels = &g->kernels;
    s.dx = dx;
    s.dpatches = dpatches;
    s.p = p;
    s.patches = p->out_h * p->out_w / units;
    lnp_team_run(&g->team, lnp_scatter_unit, &s, samples * units);
}

static void lnp_conv_backward_group(const lensnet_node *node, size_t group, float *dpatches,
                                    float *scratch, float *dx)
{
    lensnet_graph *g = node->graph;
    size_t m = g->run.n * lnp_pixels(lnp_out(node)), channels = lnp_out(node)->c;
    lnp_patches patches = lnp_patches_of(node, lnp_input_value(node, 0), group);
    lnp_gradient_product weight = lnp_product_weight(node, 0, m);
    weight.dy = lnp_output_gradient(node) + group * weight.n;
    weight.dy_stride = channels;
    weight.x_fill = lnp_patches_fill;
    weight.x_fill_context = &patches;
    weight.dw += group * weight.n * weight.k;
    lnp_multiply_gradient(lnp_gemm_of(node), &weight, scratch, &g->team);
    if (dx) {
        lnp_product input = lnp_product_input(node, 0, m);
        input.a = weight.dy;
        input.a_stride = channels;
        input.packed += group * lnp_packed_floats(lnp_gemm_of(node), input.n, input.k);
        input.out = dpatches;
        lnp_multiply_rows(lnp_gemm_of(node), &input, scratch, &g->team);
        lnp_patches_scatter(g, dx, dpatches, &patches, g->run.n);
    }
}

/* The weights' gradient stays in im2col's order until it is complete (lnp_gradients_channels_first). */
static void lnp_conv_backward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    float *dpatches = g->run.scratch;
    float *scratch =
        dpatches + lnp_round_up(lnp_conv_rows(node) * lnp_parameter_of(node, 0)->k, 16);
    float *dx = lnp_input_gradient(node, 0);
    size_t group;
    lnp_column_gradient(node, 1, lnp_output_gradient(node), NULL);
    if (dx) lnp_zero_parallel(g, dx, lnp_tensor_floats(g, node->inputs[0]));
    for (group = 0; group < lnp_conv_desc(node)->groups; group++)
        lnp_conv_backward_group(node, group, dpatches, scratch, dx);
}

static double lnp_conv_macs(const lensnet_node *node)
{
    return (double)lnp_sample_floats(lnp_out(node)) *
           (double)(lnp_parameter_of(node, 0)->size / lnp_out(node)->c);
}

static const lensnet_operator lnp_conv2d = {
    "conv2d", /* inputs, weights, of these required, bytes of options, flags: */
    1, 2, 1, sizeof(lensnet_conv2d_desc), LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_conv_shape, lnp_conv_plan, lnp_conv_forward, lnp_conv_backward, lnp_conv_macs, NULL};

/* --- depthwise convolution, direct -------------------------------------------------------------- */

static lensnet_result lnp_depthwise_shape(lensnet_node *node, lensnet_error *error)
{
    const lensnet_result result = lnp_conv_outline(node, error);
    if (result) return result;
    return lnp_use_depthwise(node, 0, lnp_parameter_of(node, 0)->shape[2],
                             lnp_conv_desc(node)->stride, error);
}

static lnp_depthwise_geometry lnp_conv_geometry(const lensnet_node *node)
{
    const lnp_activation *x = lnp_in(node);
    const lensnet_conv2d_desc *d = lnp_conv_desc(node);
    return lnp_depthwise_geometry_of(lnp_parameter_of(node, 0)->shape[2], d->stride, d->padding,
                                     x->h, x->w, x->c);
}

static void lnp_depthwise_plan(lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    const lnp_depthwise_geometry geometry = lnp_conv_geometry(node);
    if (g->options.training)
        node->scratch = lnp_depthwise_scratch_floats(g->micro_batch, &geometry);
}

static void lnp_depthwise_conv_forward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    const lnp_depthwise_geometry geometry = lnp_conv_geometry(node);
    lnp_depthwise_forward(&g->depthwise, &g->kernels, lnp_output_value(node), NULL, NULL,
                          lnp_input_value(node, 0), lnp_parameter_of(node, 0)->packed[LNP_FORWARD],
                          lnp_parameter_values(node, 1), g->run.n, &geometry, 0, &g->team);
}

static void lnp_depthwise_conv_backward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    const lnp_depthwise_geometry geometry = lnp_conv_geometry(node);
    const float *dy = lnp_output_gradient(node);
    float *dx = lnp_input_gradient(node, 0);
    lnp_depthwise_weight_gradient(&g->depthwise, &g->kernels, lnp_parameter_gradient(node, 0),
                                  lnp_parameter_gradient(node, 1), dy, lnp_input_value(node, 0),
                                  g->run.n, &geometry, g->run.scratch, &g->team);
    if (dx)
        lnp_depthwise_input_gradient(&g->depthwise, &g->kernels, dx, NULL, dy,
                                     lnp_parameter_of(node, 0)->packed[LNP_BACKWARD], g->run.n,
                                     &geometry, &g->team);
}

static const lensnet_operator lnp_depthwise = {
    "depthwise conv2d", /* inputs, weights, of these required, bytes of options, flags: */
    1, 2, 1, sizeof(lensnet_conv2d_desc), LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_depthwise_shape, lnp_depthwise_plan, lnp_depthwise_conv_forward,
    lnp_depthwise_conv_backward, lnp_conv_macs, NULL};

/* What >>depthwise does directly. */
static int lnp_is_direct(const lnp_weight *w, const lensnet_conv2d_desc *d, size_t channels)
{
    return d->groups == channels && w->shape[0] == channels && w->shape[1] == 1 &&
           w->shape[2] == w->shape[3] && d->dilation == 1 &&
           lnp_depthwise_has(w->shape[2], d->stride, d->padding);
}

/* --- conv2d, either way ------------------------------------------------------------------------ */

lensnet_tensor lensnet_conv2d(lensnet_graph *g, lensnet_tensor x, lensnet_parameter weight,
                              lensnet_parameter bias, const lensnet_conv2d_desc *desc)
{
    const lensnet_conv2d_desc defaults = lensnet_conv2d_defaults();
    const lensnet_operator *op = &lnp_conv2d;
    lensnet_parameter parameters[2];
    parameters[0] = weight;
    parameters[1] = bias;
    if (!desc) desc = &defaults;
    if (g && lnp_tensor_valid(g, x) && weight.index >= 0 &&
        (size_t)weight.index < g->parameters->count &&
        lnp_is_direct(&g->parameters->weights[weight.index], desc, g->tensors[x.index].c))
        op = &lnp_depthwise;
    return lensnet_record(g, op, &x, parameters, desc);
}

/* --- layer norm -------------------------------------------------------------------------------- */

/* x (N, H, W, C), weight (C), bias (C) -> y (N, H, W, C); kept: mean and 1 / deviation, (N, H, W). */

/* The shape stays; both parameters are vectors of C values. */
static lensnet_result lnp_channelwise_shape(lensnet_node *node, lensnet_error *error)
{
    const size_t c = lnp_in(node)->c;
    lensnet_result result = lnp_shape_same(node, error);
    if (!result) result = lensnet_node_expect(node, 0, c, error);
    return result ? result : lensnet_node_expect(node, 1, c, error);
}

static void lnp_layer_norm_plan(lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    lensnet_node_keep(node, lnp_pixels(lnp_in(node))); /* mean */
    lensnet_node_keep(node, lnp_pixels(lnp_in(node))); /* 1 / deviation */
    if (g->options.training)
        node->scratch =
            2 * g->micro_batch * lnp_chunk_count(lnp_pixels(lnp_in(node))) * lnp_in(node)->c;
}

#define LNP_ROWS_AT_A_TIME ((size_t)16)

static void lnp_layer_norm_rows(const void *context, size_t part, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lensnet_graph *g = node->graph;
    const size_t c = lnp_in(node)->c, row = part * LNP_ROWS_AT_A_TIME;
    const size_t rows = g->run.n * lnp_pixels(lnp_in(node));
    const size_t count = lnp_min(LNP_ROWS_AT_A_TIME, rows - row);
    const float *x = lnp_input_value(node, 0) + row * c;
    float *y = lnp_output_value(node) + row * c;
    float *mean = lensnet_node_kept(node, 0) + row, *rstd = lensnet_node_kept(node, 1) + row;
    const float epsilon = *(const float *)lensnet_node_options(node);
    (void)worker;
    g->kernels.row_statistics(mean, rstd, x, c, count, c, epsilon);
    g->kernels.normalize_rows(y, c, x, c, mean, rstd, lnp_parameter_values(node, 0),
                              lnp_parameter_values(node, 1), count, c);
}

static void lnp_layer_norm_forward(const lensnet_node *node)
{
    const size_t rows = node->graph->run.n * lnp_pixels(lnp_in(node));
    lensnet_node_run(node, lnp_layer_norm_rows, lnp_ceil_div(rows, LNP_ROWS_AT_A_TIME));
}

/* The scratch holds dw and db of every chunk. */
static void lnp_layer_norm_back_chunk(const void *context, size_t i, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lensnet_graph *g = node->graph;
    const size_t c = lnp_in(node)->c, pixels = lnp_pixels(lnp_in(node));
    const size_t per_sample = lnp_chunk_count(pixels), chunks = g->run.n * per_sample;
    const size_t row = i / per_sample * pixels + i % per_sample * LNP_CHUNK_ROWS, at = row * c;
    float *dw = g->run.scratch + i * c, *db = dw + chunks * c;
    float *dx = lnp_input_gradient(node, 0);
    (void)worker;
    memset(dw, 0, c * sizeof(float));
    memset(db, 0, c * sizeof(float));
    g->kernels.layer_norm_backward(dx ? dx + at : NULL, dw, db, lnp_output_gradient(node) + at,
                                   lnp_input_value(node, 0) + at, lensnet_node_kept(node, 0) + row,
                                   lensnet_node_kept(node, 1) + row, lnp_parameter_values(node, 0),
                                   lnp_chunk_at(row, pixels).rows, c);
}

static void lnp_layer_norm_backward(const lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    const size_t c = lnp_in(node)->c;
    const size_t chunks = g->run.n * lnp_chunk_count(lnp_pixels(lnp_in(node)));
    lensnet_node_run(node, lnp_layer_norm_back_chunk, chunks);
    lnp_add_chunks(g, lnp_parameter_gradient(node, 0), g->run.scratch, chunks, c);
    lnp_add_chunks(g, lnp_parameter_gradient(node, 1), g->run.scratch + chunks * c, chunks, c);
}

static const lensnet_operator lnp_layer_norm = {
    "layer norm", /* inputs, weights, of these required, bytes of options, flags: */
    1, 2, 2, sizeof(float), LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_channelwise_shape, lnp_layer_norm_plan, lnp_layer_norm_forward, lnp_layer_norm_backward,
    NULL, NULL};

lensnet_tensor lensnet_layer_norm(lensnet_graph *g, lensnet_tensor x, lensnet_parameter weight,
                                  lensnet_parameter bias, float epsilon)
{
    lensnet_parameter parameters[2];
    parameters[0] = weight;
    parameters[1] = bias;
    return lensnet_record(g, &lnp_layer_norm, &x, parameters, &epsilon);
}

/* --- operators of every value by itself -------------------------------------------------------- */

/* x -> y, any shape. */

/* Row kernels of such an operator: y = f(x), and dx = dy f'(x). */
typedef void (*lnp_elementwise)(float *y, const float *x, size_t n);
typedef void (*lnp_elementwise_slope)(float *dx, const float *dy, const float *x, size_t n);

static void lnp_elementwise_forward(const lensnet_node *node, lnp_elementwise kernel)
{
    lensnet_graph *g = node->graph;
    lnp_elements e = {NULL, NULL, NULL, 0, NULL, NULL};
    e.y = lnp_output_value(node);
    e.a = lnp_input_value(node, 0);
    e.n = lnp_tensor_floats(g, node->output);
    e.one = kernel;
    lnp_team_run(&g->team, lnp_elements_task, &e, lnp_piece_count(e.n));
}

static void lnp_elementwise_backward(const lensnet_node *node, lnp_elementwise_slope kernel)
{
    lensnet_graph *g = node->graph;
    float *dx = lnp_input_gradient(node, 0);
    if (dx)
        lnp_combine(g, kernel, dx, lnp_output_gradient(node), lnp_input_value(node, 0),
                    lnp_tensor_floats(g, node->output));
}

static void lnp_gelu_forward(const lensnet_node *node)
{
    const int half = node->precision == LENSNET_PRECISION_BF16;
    lnp_elementwise_forward(node, half ? node->graph->half->gelu : node->graph->kernels.gelu);
}

static void lnp_gelu_backward(const lensnet_node *node)
{
    const int half = node->precision == LENSNET_PRECISION_BF16;
    lnp_elementwise_backward(node, half ? node->graph->half->gelu_backward
                                        : node->graph->kernels.gelu_backward);
}

static const lensnet_operator lnp_gelu = {
    "gelu", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, 0, LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    NULL, NULL, lnp_gelu_forward, lnp_gelu_backward, NULL, NULL};

lensnet_tensor lensnet_gelu(lensnet_graph *g, lensnet_tensor x)
{
    return lensnet_record(g, &lnp_gelu, &x, NULL, NULL);
}

static void lnp_relu_forward(const lensnet_node *node)
{
    lnp_elementwise_forward(node, node->graph->kernels.relu);
}

static void lnp_relu_backward(const lensnet_node *node)
{
    lnp_elementwise_backward(node, node->graph->kernels.relu_backward);
}

static const lensnet_operator lnp_relu = {
    "relu", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, 0, LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    NULL, NULL, lnp_relu_forward, lnp_relu_backward, NULL, NULL};

lensnet_tensor lensnet_relu(lensnet_graph *g, lensnet_tensor x)
{
    return lensnet_record(g, &lnp_relu, &x, NULL, NULL);
}

/* --- kernels beside their operator --------------------------------------------------------------- */

/* Such a kernel is a plain loop, lnp_NAME_ref, and the same for 16 lanes, lnp_NAME_16, from which these
 * make lnp_NAME_kernels, by instruction set: y = f(x), or y = f(a, b). y may be x, a or b. */
#define LNP_UNARY_BODY(name)                                                                       \
    LNP_INLINE void lnp_##name##_body(lensnet_isa isa, float *y, const float *x, size_t n)         \
    {                                                                                              \
        size_t i;                                                                                  \
        for (i = 0; i + 16 <= n; i += 16)                                                          \
            lnp_store_16(isa, y + i, lnp_##name##_16(lnp_load_16(x + i)));                         \
        if (i < n)                                                                                 \
            lnp_store_part(isa, y + i, lnp_##name##_16(lnp_load_part(isa, x + i, n - i, 0.0f)),    \
                           n - i);                                                                 \
    }
#define LNP_UNARY_FOR(target, set, isa, name)                                                      \
    target static void lnp_##name##_##set(float *y, const float *x, size_t n)                      \
    {                                                                                              \
        lnp_##name##_body(isa, y, x, n);                                                           \
    }
#define LNP_STEP_OF_TWO(name, left)                                                                \
    lnp_store_n(                                                                                   \
        isa, y + i,                                                                                \
        lnp_##name##_16(lnp_load_n(isa, a + i, left, 0.0f), lnp_load_n(isa, b + i, left, 0.0f)),   \
        left)
#define LNP_BINARY_BODY(name)                                                                      \
    LNP_INLINE void lnp_##name##_body(lensnet_isa isa, float *y, const float *a, const float *b,   \
                                      size_t n)                                                    \
    {                                                                                              \
        size_t i;                                                                                  \
        for (i = 0; i + 16 <= n; i += 16) LNP_STEP_OF_TWO(name, 16);                               \
        if (i < n) LNP_STEP_OF_TWO(name, n - i);                                                   \
    }
#define LNP_BINARY_FOR(target, set, isa, name)                                                     \
    target static void lnp_##name##_##set(float *y, const float *a, const float *b, size_t n)      \
    {                                                                                              \
        lnp_##name##_body(isa, y, a, b, n);                                                        \
    }
#if LNP_ROWS_PORTABLE
#define LNP_FOR_PORTABLE(each, name) each(LNP_UNUSED, portable, LENSNET_ISA_PORTABLE, name)
#define LNP_PORTABLE_OF(name)        lnp_##name##_portable
#else
#define LNP_FOR_PORTABLE(each, name)
#define LNP_PORTABLE_OF(name) lnp_##name##_ref
#endif
#if LNP_X86
#define LNP_FOR_AVX2(each, name) each(LNP_TARGET_AVX2, avx2, LENSNET_ISA_AVX2, name)
#define LNP_AVX2_OF(name)        lnp_##name##_avx2
#else
#define LNP_FOR_AVX2(each, name)
#define LNP_AVX2_OF(name) NULL
#endif
#if LNP_AVX512
#define LNP_FOR_AVX512(each, name) each(LNP_TARGET_AVX512, avx512, LENSNET_ISA_AVX512, name)
#define LNP_AVX512_OF(name)        lnp_##name##_avx512
#else
#define LNP_FOR_AVX512(each, name)
#define LNP_AVX512_OF(name) NULL
#endif
#if !LNP_VECTORS /* the plain loop for all */
#undef LNP_UNARY_BODY
#undef LNP_BINARY_BODY
#define LNP_UNARY_BODY(name)
#define LNP_BINARY_BODY(name)
#endif
#define LNP_KERNELS(type, body, each, name)                                                        \
    body(name) LNP_FOR_PORTABLE(each, name) LNP_FOR_AVX2(each, name)                               \
        LNP_FOR_AVX512(each, name) static const type lnp_##name##_kernels[] = {                    \
            lnp_##name##_ref, LNP_PORTABLE_OF(name), LNP_AVX2_OF(name), LNP_AVX512_OF(name)};
#define LNP_UNARY_KERNELS(name) LNP_KERNELS(lnp_elementwise, LNP_UNARY_BODY, LNP_UNARY_FOR, name)
#define LNP_BINARY_KERNELS(name)                                                                   \
    LNP_KERNELS(lnp_elementwise_slope, LNP_BINARY_BODY, LNP_BINARY_FOR, name)

/* --- sigmoid, silu ------------------------------------------------------------------------------- */

/* x -> y, any shape. */

/* exp(x) for -87 <= x <= 0 within 1e-7 of itself: 2^n e^f, x = n ln 2 + f; |f| <= ln 2 / 2. */
#define LNP_EXP_MAGIC                                                                              \
    12583039.0f /* 1.5 2^23 + 127: adding it rounds to n and leaves n + 127 below */
#define LNP_EXP_RATE 1.44269504f  /* 1 / ln 2 */
#define LNP_EXP_HIGH 0.693359375f /* ln 2, n of which are exact ... */
#define LNP_EXP_LOW  -2.12194440e-4f
#define LNP_EXP_END  0x42ae0000u /* 87 */
#define LNP_EXP_2    0.5f
#define LNP_EXP_3    0.16666667f
#define LNP_EXP_4    0.041666668f
#define LNP_EXP_5    0.0083333338f
#define LNP_EXP_6    0.0013888889f

#if LNP_VECTORS
LNP_INLINE lnp_v16 lnp_exp_16(lnp_v16 x)
{
    const lnp_v16 shifted = x * LNP_EXP_RATE + LNP_EXP_MAGIC, n = shifted - LNP_EXP_MAGIC;
    const lnp_v16 f = x - n * LNP_EXP_HIGH - n * LNP_EXP_LOW;
    const lnp_v16 p = ((LNP_EXP_6 * f + LNP_EXP_5) * f + LNP_EXP_4) * f + LNP_EXP_3;
    return ((p * f + LNP_EXP_2) * f * f + (f + 1.0f)) * (lnp_v16)((lnp_u16)shifted << 23);
}

/* sigmoid(x), and sigmoid(-x) in *rest, both from e = exp(-|x|); |x| counts as 87 at most, NaN stays. */
LNP_INLINE lnp_v16 lnp_sigmoid_pair_16(lnp_v16 x, lnp_v16 *rest)
{
    const lnp_u16 bits = (lnp_u16)x, size = bits & 0x7fffffffu, over = size - LNP_EXP_END;
    const lnp_u16 keep = lnp_top(over | (0x7f800000u - size)); /* small or NaN */
    const lnp_v16 e = lnp_exp_16((lnp_v16)(((over & keep) + LNP_EXP_END) | 0x80000000u));
    const lnp_v16 large = 1.0f / (1.0f + e), small = e * large;
    const lnp_u16 swapped = lnp_top(bits) & ((lnp_u16)large ^ (lnp_u16)small);
    *rest = (lnp_v16)((lnp_u16)small ^ swapped);
    return (lnp_v16)((lnp_u16)large ^ swapped);
}

LNP_INLINE lnp_v16 lnp_sigmoid_16(lnp_v16 x)
{
    lnp_v16 rest;
    return lnp_sigmoid_pair_16(x, &rest);
}

LNP_INLINE lnp_v16 lnp_sigmoid_slope_16(lnp_v16 dy, lnp_v16 x)
{
    lnp_v16 rest;
    const lnp_v16 y = lnp_sigmoid_pair_16(x, &rest);
    return dy * (y * rest);
}

LNP_INLINE lnp_v16 lnp_silu_16(lnp_v16 x) { return x * lnp_sigmoid_16(x); }

/* slope = s (1 + x (1 - s)) */
LNP_INLINE lnp_v16 lnp_silu_slope_16(lnp_v16 dy, lnp_v16 x)
{
    lnp_v16 rest;
    const lnp_v16 s = lnp_sigmoid_pair_16(x, &rest);
    return dy * (s * (x * rest + 1.0f));
}
#endif

static float lnp_exp_ref(float x)
{
    const float shifted = x * LNP_EXP_RATE + LNP_EXP_MAGIC, n = shifted - LNP_EXP_MAGIC;
    const float f = x - n * LNP_EXP_HIGH - n * LNP_EXP_LOW;
    float p = LNP_EXP_6 * f + LNP_EXP_5, power;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits <<= 23;
    memcpy(&power, &bits, sizeof power);
    p = ((p * f + LNP_EXP_4) * f + LNP_EXP_3) * f + LNP_EXP_2;
    return (p * f * f + (f + 1.0f)) * power;
}

static float lnp_sigmoid_pair_ref(float x, float *rest)
{
    const float size = fabsf(x), e = lnp_exp_ref(size > 87.0f ? -87.0f : -size);
    const float large = 1.0f / (1.0f + e), small = e * large;
    *rest = x < 0.0f ? large : small;
    return x < 0.0f ? small : large;
}

static void lnp_sigmoid_ref(float *y, const float *x, size_t n)
{
    float rest;
    size_t i;
    for (i = 0; i < n; i++) y[i] = lnp_sigmoid_pair_ref(x[i], &rest);
}

static void lnp_sigmoid_slope_ref(float *dx, const float *dy, const float *x, size_t n)
{
    float rest;
    size_t i;
    for (i = 0; i < n; i++) {
        const float y = lnp_sigmoid_pair_ref(x[i], &rest);
        dx[i] = dy[i] * (y * rest);
    }
}

LNP_UNARY_KERNELS(sigmoid)
LNP_BINARY_KERNELS(sigmoid_slope)

static void lnp_sigmoid_forward(const lensnet_node *node)
{
    lnp_elementwise_forward(node, lnp_sigmoid_kernels[node->graph->map_isa]);
}

static void lnp_sigmoid_backward(const lensnet_node *node)
{
    lnp_elementwise_backward(node, lnp_sigmoid_slope_kernels[node->graph->map_isa]);
}

static const lensnet_operator lnp_sigmoid = {
    "sigmoid", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, 0, LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    NULL, NULL, lnp_sigmoid_forward, lnp_sigmoid_backward, NULL, NULL};

lensnet_tensor lensnet_sigmoid(lensnet_graph *g, lensnet_tensor x)
{
    return lensnet_record(g, &lnp_sigmoid, &x, NULL, NULL);
}

static void lnp_silu_ref(float *y, const float *x, size_t n)
{
    float rest;
    size_t i;
    for (i = 0; i < n; i++) y[i] = x[i] * lnp_sigmoid_pair_ref(x[i], &rest);
}

static void lnp_silu_slope_ref(float *dx, const float *dy, const float *x, size_t n)
{
    float rest;
    size_t i;
    for (i = 0; i < n; i++) {
        const float s = lnp_sigmoid_pair_ref(x[i], &rest);
        dx[i] = dy[i] * (s * (x[i] * rest + 1.0f));
    }
}

LNP_UNARY_KERNELS(silu)
LNP_BINARY_KERNELS(silu_slope)

static void lnp_silu_forward(const lensnet_node *node)
{
    lnp_elementwise_forward(node, lnp_silu_kernels[node->graph->map_isa]);
}

static void lnp_silu_backward(const lensnet_node *node)
{
    lnp_elementwise_backward(node, lnp_silu_slope_kernels[node->graph->map_isa]);
}

static const lensnet_operator lnp_silu = {
    "silu", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, 0, LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    NULL, NULL, lnp_silu_forward, lnp_silu_backward, NULL, NULL};

lensnet_tensor lensnet_silu(lensnet_graph *g, lensnet_tensor x)
{
    return lensnet_record(g, &lnp_silu, &x, NULL, NULL);
}

/* --- add --------------------------------------------------------------------------------------- */

/* a, b -> y, all (N, H, W, C). */

static lensnet_result lnp_add_shape(lensnet_node *node, lensnet_error *error)
{
    const lnp_activation *a = lnp_in(node), *b = &node->graph->tensors[node->inputs[1]];
    if (a->h != b->h || a->w != b->w || a->c != b->c)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "add: (%zu, %zu, %zu) and (%zu, %zu, %zu) differ", a->h, a->w, a->c, b->h,
                        b->w, b->c);
    return lnp_shape_same(node, error);
}

static void lnp_add_forward(const lensnet_node *node)
{
    lnp_add_parallel(node->graph, lnp_output_value(node), lnp_input_value(node, 0),
                     lnp_input_value(node, 1), lnp_tensor_floats(node->graph, node->output));
}

static void lnp_add_backward(const lensnet_node *node)
{
    const size_t bytes = lnp_tensor_floats(node->graph, node->output) * sizeof(float);
    int k;
    for (k = 0; k < 2; k++)
        if (lnp_input_gradient(node, k))
            memcpy(lnp_input_gradient(node, k), lnp_output_gradient(node), bytes);
}

static const lensnet_operator lnp_add = {
    "add", /* inputs, weights, of these required, bytes of options, flags: */
    2, 0, 0, 0, 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_add_shape, NULL, lnp_add_forward, lnp_add_backward, NULL, NULL};

lensnet_tensor lensnet_add(lensnet_graph *g, lensnet_tensor a, lensnet_tensor b)
{
    lensnet_tensor inputs[2];
    inputs[0] = a;
    inputs[1] = b;
    return lensnet_record(g, &lnp_add, inputs, NULL, NULL);
}

/* --- GRN --------------------------------------------------------------------------------------- */

/* x (N, H, W, C), gamma (C), beta (C) -> y (N, H, W, C); kept: G (N, C). */

static void lnp_grn_plan(lensnet_node *node)
{
    const size_t c = lnp_in(node)->c;
    lensnet_node_keep(node, c); /* G of every sample and channel */
    /* totals (double), factors, coefficients */
    node->scratch = 4 * lnp_round_up(node->graph->micro_batch * c, 16);
}

typedef struct lnp_pixel_sums {
    const lnp_row_kernels *kernels;
    double *totals;
    const float *a, *b;
    size_t pixels, c, width, strips; /* of the strips, columns and number */
} lnp_pixel_sums;

static void lnp_pixel_strip(const void *context, size_t i, size_t worker)
{
    const lnp_pixel_sums *s = (const lnp_pixel_sums *)context;
    const size_t sample = i / s->strips, at = i % s->strips * s->width;
    const size_t offset = sample * s->pixels * s->c + at;
    (void)worker;
    lnp_pixel_products(s->kernels, s->totals + sample * s->c + at, s->a + offset, s->b + offset,
                       s->c, s->pixels, lnp_min(s->width, s->c - at));
}

/* totals[sample][c]: sums over the pixels of a sample of a * b. */
static void lnp_pixel_totals(lensnet_graph *g, double *totals, const float *a, const float *b,
                             size_t samples, size_t pixels, size_t c)
{
    lnp_pixel_sums s;
    s.kernels = &g->kernels;
    s.totals = totals;
    s.a = a;
    s.b = b;
    s.pixels = pixels;
    s.c = c;
    s.width = lnp_strip_width(c, g->team.threads);
    s.strips = lnp_ceil_div(c, s.width);
    lnp_team_run(&g->team, lnp_pixel_strip, &s, samples * s.strips);
}

/* Of every sample and channel, beside each other in the scratch. */
static double *lnp_grn_totals(const lensnet_node *node)
{
    return (double *)(void *)node->graph->run.scratch;
}

static float *lnp_grn_factor(const lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    return g->run.scratch + 2 * lnp_round_up(g->micro_batch * lnp_in(node)->c, 16);
}

static float *lnp_grn_coefficient(const lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    return g->run.scratch + 3 * lnp_round_up(g->micro_batch * lnp_in(node)->c, 16);
}

static size_t lnp_grn_rows(const lensnet_node *node)
{
    return node->graph->run.n * lnp_pixels(lnp_in(node));
}

static void lnp_grn_forward_rows(const void *context, size_t part, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const size_t c = lnp_in(node)->c, pixels = lnp_pixels(lnp_in(node));
    const size_t end = lnp_min(lnp_grn_rows(node), (part + 1) * LNP_ROWS_AT_A_TIME);
    size_t row;
    (void)worker;
    for (row = part * LNP_ROWS_AT_A_TIME; row < end; row++)
        node->graph->kernels.scale_shift_rows(
            lnp_output_value(node) + row * c, c, lnp_input_value(node, 0) + row * c, c,
            lnp_grn_factor(node) + row / pixels * c, lnp_parameter_values(node, 1), 1, c);
}

static void lnp_grn_forward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    const size_t c = lnp_in(node)->c, pixels = lnp_pixels(lnp_in(node));
    const float *x = lnp_input_value(node, 0);
    size_t sample;
    lnp_pixel_totals(g, lnp_grn_totals(node), x, x, g->run.n, pixels, c);
    for (sample = 0; sample < g->run.n; sample++)
        lnp_grn_factors(lensnet_node_kept(node, 0) + sample * c, lnp_grn_factor(node) + sample * c,
                        lnp_grn_totals(node) + sample * c, lnp_parameter_values(node, 0), c);
    lensnet_node_run(node, lnp_grn_forward_rows,
                     lnp_ceil_div(lnp_grn_rows(node), LNP_ROWS_AT_A_TIME));
}

static void lnp_grn_backward_rows(const void *context, size_t part, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const size_t c = lnp_in(node)->c, pixels = lnp_pixels(lnp_in(node));
    const size_t end = lnp_min(lnp_grn_rows(node), (part + 1) * LNP_ROWS_AT_A_TIME);
    size_t row;
    (void)worker;
    for (row = part * LNP_ROWS_AT_A_TIME; row < end; row++) {
        const size_t at = row * c, of_sample = row / pixels * c;
        node->graph->kernels.grn_backward_rows(
            lnp_input_gradient(node, 0) + at, lnp_output_gradient(node) + at,
            lnp_input_value(node, 0) + at, lnp_grn_factor(node) + of_sample,
            lnp_grn_coefficient(node) + of_sample, c, 1, c);
    }
}

static void lnp_grn_backward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    const size_t c = lnp_in(node)->c, pixels = lnp_pixels(lnp_in(node));
    const float *x = lnp_input_value(node, 0), *dy = lnp_output_gradient(node);
    size_t sample;
    lnp_pixel_totals(g, lnp_grn_totals(node), dy, x, g->run.n, pixels, c);
    lnp_column_gradient(node, 1, dy, NULL);
    for (sample = 0; sample < g->run.n; sample++)
        lnp_grn_coefficients(
            lnp_grn_coefficient(node) + sample * c, lnp_grn_factor(node) + sample * c,
            lnp_parameter_gradient(node, 0), lnp_grn_totals(node) + sample * c,
            lensnet_node_kept(node, 0) + sample * c, lnp_parameter_values(node, 0), c);
    if (lnp_input_gradient(node, 0))
        lensnet_node_run(node, lnp_grn_backward_rows,
                         lnp_ceil_div(lnp_grn_rows(node), LNP_ROWS_AT_A_TIME));
}

static const lensnet_operator lnp_grn = {
    "grn", /* inputs, weights, of these required, bytes of options, flags: */
    1, 2, 2, 0, LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_channelwise_shape, lnp_grn_plan, lnp_grn_forward, lnp_grn_backward, NULL, NULL};

lensnet_tensor lensnet_grn(lensnet_graph *g, lensnet_tensor x, lensnet_parameter gamma,
                           lensnet_parameter beta)
{
    lensnet_parameter parameters[2];
    parameters[0] = gamma;
    parameters[1] = beta;
    return lensnet_record(g, &lnp_grn, &x, parameters, NULL);
}

/* --- multiply ----------------------------------------------------------------------------------- */

/* x (N, H, W, C), y (N, H, W, C) or (N, 1, 1, C) -> (N, H, W, C). */

#if LNP_VECTORS
LNP_INLINE lnp_v16 lnp_multiply_16(lnp_v16 a, lnp_v16 b) { return a * b; }
#endif

static void lnp_multiply_ref(float *y, const float *a, const float *b, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] = a[i] * b[i];
}

LNP_BINARY_KERNELS(multiply)

static lensnet_result lnp_multiply_shape(lensnet_node *node, lensnet_error *error)
{
    const lensnet_view x = lensnet_node_input(node, 0), y = lensnet_node_input(node, 1);
    if (x.c != y.c || ((x.h != y.h || x.w != y.w) && (y.h != 1 || y.w != 1)))
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "multiply: (N, %zu, %zu, %zu) by (N, %zu, %zu, %zu): expected the same "
                        "shape, or (N, 1, 1, %zu)",
                        x.h, x.w, x.c, y.h, y.w, y.c, x.c);
    return lnp_shape_same(node, error);
}

static void lnp_multiply_plan(lensnet_node *node)
{
    const lensnet_view y = lensnet_node_input(node, 1); /* totals, double */
    lensnet_node_reserve(node, 2 * lnp_round_up(y.n * y.c, 16));
}

/* Rows of channels, all of a sample times its one row of gates. */
typedef struct lnp_gating {
    lnp_elementwise_slope kernel;
    float *to;
    const float *from, *gates;
    size_t rows, pixels, c;
} lnp_gating;

static void lnp_gate_rows(const void *context, size_t part, size_t worker)
{
    const lnp_gating *g = (const lnp_gating *)context;
    const size_t end = lnp_min(g->rows, (part + 1) * LNP_ROWS_AT_A_TIME);
    size_t row;
    (void)worker;
    for (row = part * LNP_ROWS_AT_A_TIME; row < end; row++)
        g->kernel(g->to + row * g->c, g->from + row * g->c, g->gates + row / g->pixels * g->c,
                  g->c);
}

/* to = from times the gates, one row of them for every `pixels` rows. */
static void lnp_gate(const lensnet_node *node, float *to, const float *from, const float *gates,
                     size_t pixels)
{
    lensnet_graph *g = node->graph;
    lnp_gating gating;
    gating.kernel = lnp_multiply_kernels[g->map_isa];
    gating.to = to;
    gating.from = from;
    gating.gates = gates;
    gating.pixels = pixels;
    gating.rows = g->run.n * lnp_pixels(lnp_in(node));
    gating.c = lnp_in(node)->c;
    lnp_team_run(&g->team, lnp_gate_rows, &gating, lnp_ceil_div(gating.rows, LNP_ROWS_AT_A_TIME));
}

/* In whichever of its two shapes y is. */
static void lnp_multiply_by(const lensnet_node *node, float *to, const float *from)
{
    const lensnet_view x = lensnet_node_input(node, 0), y = lensnet_node_input(node, 1);
    lnp_gate(node, to, from, y.value, x.h * x.w / (y.h * y.w));
}

static void lnp_multiply_forward(const lensnet_node *node)
{
    lnp_multiply_by(node, lnp_output_value(node), lnp_input_value(node, 0));
}

static void lnp_multiply_backward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    const lensnet_view x = lensnet_node_input(node, 0), y = lensnet_node_input(node, 1);
    const float *dz = lnp_output_gradient(node);
    double *totals = (double *)(void *)lensnet_node_scratch(node);
    size_t i;
    if (x.gradient) lnp_multiply_by(node, x.gradient, dz);
    if (!y.gradient) return;
    if (x.h * x.w == y.h * y.w) {
        lnp_combine(g, lnp_multiply_kernels[g->map_isa], y.gradient, dz, x.value,
                    y.n * y.h * y.w * y.c);
        return;
    }
    lnp_pixel_totals(g, totals, dz, x.value, x.n, x.h * x.w, x.c);
    for (i = 0; i < y.n * y.c; i++) y.gradient[i] = (float)totals[i];
}

static const lensnet_operator lnp_multiply_operator = {
    "multiply", /* inputs, weights, of these required, bytes of options, flags: */
    2, 0, 0, 0, LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_multiply_shape, lnp_multiply_plan, lnp_multiply_forward, lnp_multiply_backward, NULL, NULL};

lensnet_tensor lensnet_multiply(lensnet_graph *g, lensnet_tensor x, lensnet_tensor y)
{
    lensnet_tensor inputs[2];
    inputs[0] = x;
    inputs[1] = y;
    return lensnet_record(g, &lnp_multiply_operator, inputs, NULL, NULL);
}

/* --- concat -------------------------------------------------------------------------------------- */

/* a (N, H, W, Ca), b (N, H, W, Cb) -> y (N, H, W, Ca + Cb). */

static lensnet_result lnp_concat_shape(lensnet_node *node, lensnet_error *error)
{
    const lensnet_view a = lensnet_node_input(node, 0), b = lensnet_node_input(node, 1);
    if (a.h != b.h || a.w != b.w)
        return lnp_fail(error, LENSNET_ERROR_SHAPE, "concat: %zu x %zu and %zu x %zu pixels differ",
                        a.h, a.w, b.h, b.w);
    lensnet_node_shape(node, a.h, a.w, a.c + b.c);
    return LENSNET_OK;
}

static void lnp_concat_forward(const lensnet_node *node)
{
    const lensnet_view a = lensnet_node_input(node, 0), b = lensnet_node_input(node, 1);
    float *y = lnp_output_value(node);
    size_t row, rows = a.n * a.h * a.w;
    for (row = 0; row < rows; row++, y += a.c + b.c) {
        memcpy(y, a.value + row * a.c, a.c * sizeof(float));
        memcpy(y + a.c, b.value + row * b.c, b.c * sizeof(float));
    }
}

static void lnp_concat_backward(const lensnet_node *node)
{
    const lensnet_view a = lensnet_node_input(node, 0), b = lensnet_node_input(node, 1);
    const float *dy = lnp_output_gradient(node);
    size_t row, rows = a.n * a.h * a.w;
    for (row = 0; row < rows; row++, dy += a.c + b.c) {
        if (a.gradient) memcpy(a.gradient + row * a.c, dy, a.c * sizeof(float));
        if (b.gradient) memcpy(b.gradient + row * b.c, dy + a.c, b.c * sizeof(float));
    }
}

static const lensnet_operator lnp_concat = {
    "concat", /* inputs, weights, of these required, bytes of options, flags: */
    2, 0, 0, 0, 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_concat_shape, NULL, lnp_concat_forward, lnp_concat_backward, NULL, NULL};

lensnet_tensor lensnet_concat(lensnet_graph *g, lensnet_tensor a, lensnet_tensor b)
{
    lensnet_tensor inputs[2];
    inputs[0] = a;
    inputs[1] = b;
    return lensnet_record(g, &lnp_concat, inputs, NULL, NULL);
}

/* --- channel scale --------------------------------------------------------------------------------- */

/* x (N, H, W, C), gamma (C) -> y (N, H, W, C). */

static lensnet_result lnp_channel_scale_shape(lensnet_node *node, lensnet_error *error)
{
    lnp_shape_same(node, error);
    return lensnet_node_expect(node, 0, lnp_in(node)->c, error);
}

static void lnp_channel_scale_by(const lensnet_node *node, float *to, const float *from)
{
    const lensnet_view x = lensnet_node_input(node, 0);
    lnp_gate(node, to, from, lnp_parameter_values(node, 0), x.n * x.h * x.w);
}

static void lnp_channel_scale_forward(const lensnet_node *node)
{
    lnp_channel_scale_by(node, lnp_output_value(node), lnp_input_value(node, 0));
}

static void lnp_channel_scale_backward(const lensnet_node *node)
{
    const float *dy = lnp_output_gradient(node);
    lnp_column_gradient(node, 0, dy, lnp_input_value(node, 0));
    if (lnp_input_gradient(node, 0)) lnp_channel_scale_by(node, lnp_input_gradient(node, 0), dy);
}

static const lensnet_operator lnp_channel_scale = {
    "channel scale", /* inputs, weights, of these required, bytes of options, flags: */
    1, 1, 1, 0, LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_channel_scale_shape, NULL, lnp_channel_scale_forward, lnp_channel_scale_backward, NULL,
    NULL};

lensnet_tensor lensnet_channel_scale(lensnet_graph *g, lensnet_tensor x, lensnet_parameter gamma)
{
    return lensnet_record(g, &lnp_channel_scale, &x, &gamma, NULL);
}

/* --- softmax ------------------------------------------------------------------------------------- */

/* x (N, H, W, C) -> y (N, H, W, C), each pixel's sum 1; dx = y (dy - sum over c of dy y). */

static size_t lnp_rows_of_part(const lensnet_node *node, size_t part)
{
    const size_t rows = node->graph->run.n * lnp_pixels(lnp_out(node));
    return lnp_min(LNP_ROWS_AT_A_TIME, rows - part * LNP_ROWS_AT_A_TIME);
}

static void lnp_run_rows(const lensnet_node *node, lensnet_task task)
{
    const size_t rows = node->graph->run.n * lnp_pixels(lnp_out(node));
    lensnet_node_run(node, task, lnp_ceil_div(rows, LNP_ROWS_AT_A_TIME));
}

static void lnp_softmax_rows(const void *context, size_t part, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const size_t c = lnp_out(node)->c, at = part * LNP_ROWS_AT_A_TIME * c;
    (void)worker;
    lnp_softmax(lnp_output_value(node) + at, lnp_input_value(node, 0) + at,
                lnp_rows_of_part(node, part), c);
}

/* Through the softmax of every row: to = p (from - sum of from p); to may be from. */
static void lnp_softmax_through(float *to, const float *from, const float *p, size_t rows,
                                size_t columns)
{
    size_t row, i;
    for (row = 0; row < rows; row++, to += columns, from += columns, p += columns) {
        double sum = 0.0;
        for (i = 0; i < columns; i++) sum += (double)from[i] * (double)p[i];
        for (i = 0; i < columns; i++) to[i] = (float)((double)p[i] * ((double)from[i] - sum));
    }
}

static void lnp_softmax_back_rows(const void *context, size_t part, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const size_t c = lnp_out(node)->c, at = part * LNP_ROWS_AT_A_TIME * c;
    (void)worker;
    lnp_softmax_through(lnp_input_gradient(node, 0) + at, lnp_output_gradient(node) + at,
                        lnp_output_value(node) + at, lnp_rows_of_part(node, part), c);
}

static void lnp_softmax_forward(const lensnet_node *node) { lnp_run_rows(node, lnp_softmax_rows); }

static void lnp_softmax_backward(const lensnet_node *node)
{
    if (lnp_input_gradient(node, 0)) lnp_run_rows(node, lnp_softmax_back_rows);
}

static const lensnet_operator lnp_softmax_operator = {
    "softmax", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, 0, LENSNET_READS_OUTPUT,
    /* shape, plan, forward, backward, macs, begin: */
    NULL, NULL, lnp_softmax_forward, lnp_softmax_backward, NULL, NULL};

lensnet_tensor lensnet_softmax(lensnet_graph *g, lensnet_tensor x)
{
    return lensnet_record(g, &lnp_softmax_operator, &x, NULL, NULL);
}

/* --- group norm ---------------------------------------------------------------------------------- */

/* x (N, H, W, C), weight (C), bias (C) -> y (N, H, W, C); kept: mean and 1 / deviation of each group,
 * (N, 2, groups). A task is a group of a sample: its sums are in double, pixel after pixel. */

typedef struct lnp_group_options {
    size_t groups;
    float epsilon;
} lnp_group_options;

/* One group of one sample: channels first ... first + count - 1 of its pixels. */
typedef struct lnp_group {
    size_t first, count, pixels, c, at; /* at: of its first value */
    float *mean, *rstd;
} lnp_group;

static lnp_group lnp_group_of(const lensnet_node *node, size_t task)
{
    const lnp_group_options *o = (const lnp_group_options *)lensnet_node_options(node);
    const lnp_activation *x = lnp_in(node);
    const size_t sample = task / o->groups, index = task % o->groups;
    lnp_group group;
    group.count = x->c / o->groups;
    group.first = index * group.count;
    group.pixels = lnp_pixels(x);
    group.c = x->c;
    group.at = sample * lnp_sample_floats(x) + group.first;
    group.mean = lensnet_node_kept(node, 0) + sample * 2 * o->groups + index;
    group.rstd = group.mean + o->groups;
    return group;
}

static lensnet_result lnp_group_norm_shape(lensnet_node *node, lensnet_error *error)
{
    const lnp_group_options *o = (const lnp_group_options *)lensnet_node_options(node);
    if (!o->groups || lnp_in(node)->c % o->groups)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "group norm: %zu channels cannot be cut into %zu groups", lnp_in(node)->c,
                        o->groups);
    return lnp_channelwise_shape(node, error);
}

static void lnp_group_norm_plan(lensnet_node *node)
{
    const lnp_group_options *o = (const lnp_group_options *)lensnet_node_options(node);
    lensnet_node_keep(node, 2 * o->groups);
    lensnet_node_reserve(node, 2 * node->graph->micro_batch * lnp_in(node)->c); /* dw, db */
}

static void lnp_group_statistics(const lnp_group *g, const float *x, float epsilon)
{
    const double values = (double)(g->pixels * g->count);
    double mean = 0.0, variance = 0.0;
    size_t p, c;
    for (p = 0; p < g->pixels; p++)
        for (c = 0; c < g->count; c++) mean += (double)x[p * g->c + c];
    mean /= values;
    for (p = 0; p < g->pixels; p++)
        for (c = 0; c < g->count; c++) {
            const double d = (double)x[p * g->c + c] - mean;
            variance += d * d;
        }
    *g->mean = (float)mean;
    *g->rstd = (float)(1.0 / sqrt(variance / values + (double)epsilon));
}

static void lnp_group_norm_task(const void *context, size_t task, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lnp_group_options *o = (const lnp_group_options *)lensnet_node_options(node);
    const lnp_group g = lnp_group_of(node, task);
    const float *x = lnp_input_value(node, 0) + g.at;
    const float *w = lnp_parameter_values(node, 0) + g.first;
    const float *b = lnp_parameter_values(node, 1) + g.first;
    float *y = lnp_output_value(node) + g.at;
    size_t p, c;
    (void)worker;
    lnp_group_statistics(&g, x, o->epsilon);
    for (p = 0; p < g.pixels; p++)
        for (c = 0; c < g.count; c++) {
            const size_t i = p * g.c + c;
            y[i] = (x[i] - *g.mean) * *g.rstd * w[c] + b[c];
        }
}

/* dx = rstd (dy w - (s1 + xhat s2) / values), s1 = sum of dy w, s2 = sum of dy w xhat. */
static void lnp_group_input_gradient(const lnp_group *g, float *dx, const float *dy, const float *x,
                                     const float *w)
{
    const double values = (double)(g->pixels * g->count), mean = (double)*g->mean;
    const double rstd = (double)*g->rstd;
    double s1 = 0.0, s2 = 0.0;
    size_t p, c;
    for (p = 0; p < g->pixels; p++)
        for (c = 0; c < g->count; c++) {
            const size_t i = p * g->c + c;
            const double d = (double)dy[i] * (double)w[c];
            s1 += d;
            s2 += d * ((double)x[i] - mean) * rstd;
        }
    for (p = 0; p < g->pixels; p++)
        for (c = 0; c < g->count; c++) {
            const size_t i = p * g->c + c;
            const double hat = ((double)x[i] - mean) * rstd;
            dx[i] = (float)(rstd * ((double)dy[i] * (double)w[c] - (s1 + hat * s2) / values));
        }
}

static void lnp_group_norm_back_task(const void *context, size_t task, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lnp_group g = lnp_group_of(node, task);
    const float *x = lnp_input_value(node, 0) + g.at, *dy = lnp_output_gradient(node) + g.at;
    const size_t sample = g.at / (g.pixels * g.c);
    float *dw = lensnet_node_scratch(node) + 2 * sample * g.c + g.first, *db = dw + g.c;
    float *dx = lnp_input_gradient(node, 0);
    size_t p, c;
    (void)worker;
    for (c = 0; c < g.count; c++) {
        double of_weight = 0.0, of_bias = 0.0;
        for (p = 0; p < g.pixels; p++) {
            const size_t i = p * g.c + c;
            of_weight += (double)dy[i] * ((double)x[i] - (double)*g.mean) * (double)*g.rstd;
            of_bias += (double)dy[i];
        }
        dw[c] = (float)of_weight;
        db[c] = (float)of_bias;
    }
    if (dx) lnp_group_input_gradient(&g, dx + g.at, dy, x, lnp_parameter_values(node, 0) + g.first);
}

static size_t lnp_group_tasks(const lensnet_node *node)
{
    const lnp_group_options *o = (const lnp_group_options *)lensnet_node_options(node);
    return node->graph->run.n * o->groups;
}

static void lnp_group_norm_forward(const lensnet_node *node)
{
    lensnet_node_run(node, lnp_group_norm_task, lnp_group_tasks(node));
}

static void lnp_group_norm_backward(const lensnet_node *node)
{
    const float *sums = lensnet_node_scratch(node);
    float *dw = lnp_parameter_gradient(node, 0), *db = lnp_parameter_gradient(node, 1);
    const size_t c = lnp_in(node)->c;
    size_t sample, i;
    lensnet_node_run(node, lnp_group_norm_back_task, lnp_group_tasks(node));
    for (sample = 0; sample < node->graph->run.n; sample++, sums += 2 * c)
        for (i = 0; i < c; i++) {
            dw[i] += sums[i];
            db[i] += sums[c + i];
        }
}

static const lensnet_operator lnp_group_norm = {
    "group norm", /* inputs, weights, of these required, bytes of options, flags: */
    1, 2, 2, sizeof(lnp_group_options), LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_group_norm_shape, lnp_group_norm_plan, lnp_group_norm_forward, lnp_group_norm_backward,
    NULL, NULL};

lensnet_tensor lensnet_group_norm(lensnet_graph *g, lensnet_tensor x, size_t groups,
                                  lensnet_parameter weight, lensnet_parameter bias, float epsilon)
{
    lensnet_parameter parameters[2];
    lnp_group_options options;
    parameters[0] = weight;
    parameters[1] = bias;
    memset(&options, 0, sizeof options);
    options.groups = groups;
    options.epsilon = epsilon;
    return lensnet_record(g, &lnp_group_norm, &x, parameters, &options);
}

/* --- batch norm ---------------------------------------------------------------------------------- */

/* x (N, H, W, C), weight, bias, running mean, running variance (C) -> y (N, H, W, C); kept: mean, 1 /
 * deviation, (2, C). N is the whole batch where the graph trains. A task is a strip of channels: its sums are
 * added a few rows at a time, then in double: what they round goes through the whole channel, and its gradients. Scratch: y = x factor + shift, dx = dy factor +
 * (x slope + shift), and ones. */

#define LNP_NORM_STRIP ((size_t)32) /* channels */
#define LNP_NORM_ROWS  ((size_t)8)  /* added in float32 before they join the others in double */

typedef struct lnp_batch_norm_options {
    float epsilon, momentum;
} lnp_batch_norm_options;

/* What one task has: channels first ... first + count - 1 of all rows. */
typedef struct lnp_batch_norm_strip {
    const lensnet_node *node;
    size_t first, count, rows, c;
    float *mean, *rstd;            /* kept */
    float *factor, *shift, *slope; /* scratch */
    const float *ones;
} lnp_batch_norm_strip;

static lnp_batch_norm_strip lnp_batch_norm_strip_of(const lensnet_node *node, size_t index)
{
    const lnp_activation *x = lnp_in(node);
    const size_t apart = lnp_round_up(x->c, 16);
    lnp_batch_norm_strip s;
    s.node = node;
    s.c = x->c;
    s.first = index * LNP_NORM_STRIP;
    s.count = lnp_min(LNP_NORM_STRIP, s.c - s.first);
    s.rows = node->graph->run.n * lnp_pixels(x);
    s.mean = lensnet_node_kept(node, 0) + s.first;
    s.rstd = s.mean + s.c;
    s.factor = lensnet_node_scratch(node) + s.first;
    s.shift = s.factor + apart;
    s.slope = s.shift + apart;
    s.ones = s.slope + apart;
    return s;
}

static lensnet_result lnp_batch_norm_shape(lensnet_node *node, lensnet_error *error)
{
    const lnp_batch_norm_options *o = (const lnp_batch_norm_options *)lensnet_node_options(node);
    lensnet_result result = lnp_channelwise_shape(node, error);
    int k;
    if (!(o->epsilon > 0 && o->momentum >= 0 && o->momentum <= 1))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "batch norm: epsilon %g and momentum %g; expected > 0 and 0 ... 1",
                        (double)o->epsilon, (double)o->momentum);
    for (k = 2; k < 4 && !result; k++) {
        if (!lnp_parameter_of(node, k)->statistic)
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "batch norm: \"%s\" is to be added by lensnet_statistic_add",
                            lnp_parameter_of(node, k)->name);
        result = lensnet_node_expect(node, k, lnp_in(node)->c, error);
    }
    return result;
}

static void lnp_batch_norm_plan(lensnet_node *node)
{
    const size_t c = lnp_in(node)->c;
    lensnet_node_keep(node, 2 * c);
    lensnet_node_reserve(node, 4 * lnp_round_up(c, 16));
}

/* totals[c] = sum of a over all rows. */
static void lnp_batch_norm_sums(const lnp_batch_norm_strip *s, double *totals, const float *a)
{
    float sums[LNP_NORM_STRIP];
    size_t row, rows, i;
    memset(totals, 0, s->count * sizeof *totals);
    for (row = 0; row < s->rows; row += rows) {
        rows = lnp_min(LNP_NORM_ROWS, s->rows - row);
        memset(sums, 0, sizeof sums);
        s->node->graph->kernels.column_sum(sums, a + row * s->c + s->first, s->c, rows, s->count);
        for (i = 0; i < s->count; i++) totals[i] += (double)sums[i];
    }
}

/* to = the chunk at x, moved by `shift`, in rows of a strip. */
static void lnp_batch_norm_move(const lnp_batch_norm_strip *s, float *to, const float *x,
                                const float *shift, size_t rows)
{
    s->node->graph->kernels.scale_shift_rows(to, LNP_NORM_STRIP, x + s->first, s->c, s->ones, shift,
                                             rows, s->count);
}

/* totals[c] = sum of a (x - mean) over all rows; of (x - mean)^2 where a is NULL. */
static void lnp_batch_norm_products(const lnp_batch_norm_strip *s, double *totals, const float *a,
                                    const float *x)
{
    float sums[LNP_NORM_STRIP], minus[LNP_NORM_STRIP], zero[LNP_NORM_STRIP];
    float centred[LNP_NORM_ROWS * LNP_NORM_STRIP], factor[LNP_NORM_ROWS * LNP_NORM_STRIP];
    size_t row, rows, i;
    memset(zero, 0, sizeof zero);
    memset(totals, 0, s->count * sizeof *totals);
    for (i = 0; i < s->count; i++) minus[i] = -s->mean[i];
    for (row = 0; row < s->rows; row += rows) {
        rows = lnp_min(LNP_NORM_ROWS, s->rows - row);
        memset(sums, 0, sizeof sums);
        lnp_batch_norm_move(s, centred, x + row * s->c, minus, rows);
        if (a) lnp_batch_norm_move(s, factor, a + row * s->c, zero, rows);
        s->node->graph->kernels.column_products(sums, a ? factor : centred, centred, LNP_NORM_STRIP,
                                                rows, s->count);
        for (i = 0; i < s->count; i++) totals[i] += (double)sums[i];
    }
}

/* The batch's statistics, and the running ones a step nearer to them. */
static void lnp_batch_norm_measure(const lnp_batch_norm_strip *s)
{
    const lensnet_node *node = s->node;
    const lnp_batch_norm_options *o = (const lnp_batch_norm_options *)lensnet_node_options(node);
    float *values = node->graph->parameters->values;
    float *mean = values + lnp_parameter_of(node, 2)->offset + s->first;
    float *variance = values + lnp_parameter_of(node, 3)->offset + s->first;
    const double n = (double)s->rows, step = (double)o->momentum;
    double totals[LNP_NORM_STRIP];
    size_t i;
    lnp_batch_norm_sums(s, totals, lnp_input_value(node, 0));
    for (i = 0; i < s->count; i++) {
        s->mean[i] = (float)(totals[i] / n);
        mean[i] = (float)((1.0 - step) * (double)mean[i] + step * totals[i] / n);
    }
    lnp_batch_norm_products(s, totals, NULL, lnp_input_value(node, 0));
    for (i = 0; i < s->count; i++) {
        const double unbiased = totals[i] / (n > 1.0 ? n - 1.0 : 1.0);
        s->rstd[i] = (float)(1.0 / sqrt(totals[i] / n + (double)o->epsilon));
        variance[i] = (float)((1.0 - step) * (double)variance[i] + step * unbiased);
    }
}

/* Is it the batch's own statistics that count? */
static int lnp_batch_norm_measures(const lensnet_node *node)
{
    return lensnet_node_training(node) && !node->graph->options.fixed_statistics;
}

static void lnp_batch_norm_recall(const lnp_batch_norm_strip *s)
{
    const lnp_batch_norm_options *o = (const lnp_batch_norm_options *)lensnet_node_options(s->node);
    const float *mean = lnp_parameter_values(s->node, 2) + s->first;
    const float *variance = lnp_parameter_values(s->node, 3) + s->first;
    size_t i;
    for (i = 0; i < s->count; i++) {
        s->mean[i] = mean[i];
        s->rstd[i] = (float)(1.0 / sqrt((double)variance[i] + (double)o->epsilon));
    }
}

static void lnp_batch_norm_forward_task(const void *context, size_t strip, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lnp_batch_norm_strip s = lnp_batch_norm_strip_of(node, strip);
    const float *w = lnp_parameter_values(node, 0) + s.first;
    const float *b = lnp_parameter_values(node, 1) + s.first;
    size_t i;
    (void)worker;
    if (lnp_batch_norm_measures(node))
        lnp_batch_norm_measure(&s);
    else
        lnp_batch_norm_recall(&s);
    for (i = 0; i < s.count; i++) {
        s.factor[i] = w[i] * s.rstd[i];
        s.shift[i] = (float)((double)b[i] - (double)s.mean[i] * (double)s.factor[i]);
    }
}

static void lnp_batch_norm_forward_rows(const void *context, size_t part, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lnp_batch_norm_strip s = lnp_batch_norm_strip_of(node, 0);
    const size_t at = part * LNP_ROWS_AT_A_TIME * s.c;
    (void)worker;
    node->graph->kernels.scale_shift_rows(lnp_output_value(node) + at, s.c,
                                          lnp_input_value(node, 0) + at, s.c, s.factor, s.shift,
                                          lnp_rows_of_part(node, part), s.c);
}

static void lnp_batch_norm_run(const lensnet_node *node, lensnet_task strips, lensnet_task rows)
{
    const lnp_batch_norm_strip s = lnp_batch_norm_strip_of(node, 0);
    lnp_set_all(lensnet_node_scratch(node) + (s.ones - s.factor), 1.0f, s.c);
    lensnet_node_run(node, strips, lnp_ceil_div(s.c, LNP_NORM_STRIP));
    if (rows) lnp_run_rows(node, rows);
}

static void lnp_batch_norm_forward(const lensnet_node *node)
{
    lnp_batch_norm_run(node, lnp_batch_norm_forward_task, lnp_batch_norm_forward_rows);
}

/* dx = w rstd (dy - s1 / n - (x - mean) rstd^2 s2 / n), s1 = sum of dy, s2 = sum of dy (x - mean); w rstd dy where
 * mean and rstd do not depend on x. */
static void lnp_batch_norm_back_task(const void *context, size_t strip, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lnp_batch_norm_strip s = lnp_batch_norm_strip_of(node, strip);
    const float *w = lnp_parameter_values(node, 0) + s.first, *dy = lnp_output_gradient(node);
    float *dw = lnp_parameter_gradient(node, 0) + s.first;
    float *db = lnp_parameter_gradient(node, 1) + s.first;
    double s1[LNP_NORM_STRIP], s2[LNP_NORM_STRIP];
    const int measured = lnp_batch_norm_measures(node);
    size_t i;
    (void)worker;
    lnp_batch_norm_sums(&s, s1, dy);
    lnp_batch_norm_products(&s, s2, dy, lnp_input_value(node, 0));
    for (i = 0; i < s.count; i++) {
        const double n = (double)s.rows, rstd = (double)s.rstd[i], scale = (double)w[i] * rstd;
        const double slope = measured ? -scale * rstd * rstd * s2[i] / n : 0.0;
        const double level = measured ? -scale * s1[i] / n : 0.0;
        dw[i] += (float)(s2[i] * rstd);
        db[i] += (float)s1[i];
        s.factor[i] = (float)scale;
        s.slope[i] = (float)slope;
        s.shift[i] = (float)(level - slope * (double)s.mean[i]);
    }
}

static void lnp_batch_norm_back_rows(const void *context, size_t part, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lnp_row_kernels *kernels = &node->graph->kernels;
    const lnp_batch_norm_strip s = lnp_batch_norm_strip_of(node, 0);
    const size_t at = part * LNP_ROWS_AT_A_TIME * s.c, rows = lnp_rows_of_part(node, part);
    float *dx = lnp_input_gradient(node, 0) + at;
    (void)worker;
    kernels->scale_shift_rows(dx, s.c, lnp_input_value(node, 0) + at, s.c, s.slope, s.shift, rows,
                              s.c);
    kernels->grn_backward_rows(dx, lnp_output_gradient(node) + at, dx, s.factor, s.ones, s.c, rows,
                               s.c);
}

static void lnp_batch_norm_backward(const lensnet_node *node)
{
    lnp_batch_norm_run(node, lnp_batch_norm_back_task,
                       lnp_input_gradient(node, 0) ? lnp_batch_norm_back_rows : NULL);
}

static const lensnet_operator lnp_batch_norm = {
    "batch norm", /* inputs, weights, of these required, bytes of options, flags: */
    1, 4, 4, sizeof(lnp_batch_norm_options), LENSNET_READS_INPUT | LENSNET_WHOLE_BATCH,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_batch_norm_shape, lnp_batch_norm_plan, lnp_batch_norm_forward, lnp_batch_norm_backward,
    NULL, NULL};

lensnet_batch_norm_desc lensnet_batch_norm_defaults(void)
{
    lensnet_batch_norm_desc d;
    d.weight.index = d.bias.index = d.mean.index = d.variance.index = -1;
    d.epsilon = 1e-5f;
    d.momentum = 0.1f;
    return d;
}

lensnet_tensor lensnet_batch_norm(lensnet_graph *g, lensnet_tensor x,
                                  const lensnet_batch_norm_desc *desc)
{
    const lensnet_batch_norm_desc defaults = lensnet_batch_norm_defaults();
    const lensnet_batch_norm_desc *d = desc ? desc : &defaults;
    lensnet_parameter parameters[4];
    lnp_batch_norm_options options;
    parameters[0] = d->weight;
    parameters[1] = d->bias;
    parameters[2] = d->mean;
    parameters[3] = d->variance;
    options.epsilon = d->epsilon;
    options.momentum = d->momentum;
    return lensnet_record(g, &lnp_batch_norm, &x, parameters, &options);
}

/* A weight whose values wait for those of the norm's weight, variance and mean, of which there are as many as
 * it has rows; 0 if they do not. */
static int lnp_fold_note(lensnet_parameters *p, lensnet_parameter folded, int kind,
                         const lensnet_batch_norm_desc *norm)
{
    const int with[3] = {norm->weight.index, norm->variance.index, norm->mean.index};
    lnp_weight *w = &p->weights[folded.index];
    int i;
    for (i = 0; i < 3; i++)
        if (p->weights[with[i]].size != w->shape[0]) return 0;
    w->folded = kind;
    w->epsilon = norm->epsilon;
    memcpy(w->norm, with, sizeof with);
    return 1;
}

static int lnp_fold(lensnet_graph *g, lensnet_parameter weight, const lensnet_batch_norm_desc *norm)
{
    const int all[5] = {weight.index, norm->weight.index, norm->bias.index, norm->mean.index,
                        norm->variance.index};
    int i;
    if (!g->parameters->folds) return 0;
    for (i = 0; i < 5; i++)
        if (all[i] < 0 || (size_t)all[i] >= g->parameters->count) return 0;
    if (g->parameters->frozen) return g->parameters->weights[weight.index].folded;
    return lnp_fold_note(g->parameters, norm->bias, 2, norm) &&
           lnp_fold_note(g->parameters, weight, 1, norm);
}

lensnet_tensor lensnet_conv2d_batch_norm(lensnet_graph *g, lensnet_tensor x,
                                         lensnet_parameter weight, const lensnet_conv2d_desc *desc,
                                         const lensnet_batch_norm_desc *norm)
{
    const lensnet_parameter none = {-1};
    if (g && norm && lnp_fold(g, weight, norm))
        return lensnet_conv2d(g, x, weight, norm->bias, desc);
    return lensnet_batch_norm(g, lensnet_conv2d(g, x, weight, none, desc), norm);
}

/* --- tokens -------------------------------------------------------------------------------------- */

/* x (N, H, W, C), class token (C), position (1 + H W, C) -> y (N, 1, 1 + H W, C). The weights' gradients are
 * sums over samples, one after the other. */

static lensnet_result lnp_tokens_shape(lensnet_node *node, lensnet_error *error)
{
    const lnp_activation *x = lnp_in(node);
    const size_t tokens = lnp_pixels(x) + 1;
    lensnet_result result = lensnet_node_expect(node, 0, x->c, error);
    lensnet_node_shape(node, 1, tokens, x->c);
    return result ? result : lensnet_node_expect(node, 1, tokens * x->c, error);
}

static void lnp_tokens_forward(const lensnet_node *node)
{
    const lensnet_view x = lensnet_node_input(node, 0), y = lensnet_node_output(node);
    const float *token = lnp_parameter_values(node, 0), *position = lnp_parameter_values(node, 1);
    const size_t floats = y.w * y.c;
    size_t n, i;
    for (n = 0; n < x.n; n++) {
        float *to = y.value + n * floats;
        memcpy(to, token, y.c * sizeof *to);
        memcpy(to + y.c, x.value + n * (floats - y.c), (floats - y.c) * sizeof *to);
        for (i = 0; i < floats; i++) to[i] += position[i];
    }
}

static void lnp_tokens_backward(const lensnet_node *node)
{
    const lensnet_view x = lensnet_node_input(node, 0), y = lensnet_node_output(node);
    float *token = lnp_parameter_gradient(node, 0), *position = lnp_parameter_gradient(node, 1);
    const size_t floats = y.w * y.c;
    size_t n, i;
    for (n = 0; n < x.n; n++) {
        const float *from = y.gradient + n * floats;
        for (i = 0; token && i < y.c; i++) token[i] += from[i];
        for (i = 0; position && i < floats; i++) position[i] += from[i];
        if (x.gradient)
            memcpy(x.gradient + n * (floats - y.c), from + y.c, (floats - y.c) * sizeof *from);
    }
}

static const lensnet_operator lnp_tokens = {
    "tokens", /* inputs, weights, of these required, bytes of options, flags: */
    1, 2, 2, 0, 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_tokens_shape, NULL, lnp_tokens_forward, lnp_tokens_backward, NULL, NULL};

lensnet_tensor lensnet_tokens(lensnet_graph *g, lensnet_tensor x, lensnet_parameter class_token,
                              lensnet_parameter position)
{
    lensnet_parameter parameters[2];
    parameters[0] = class_token;
    parameters[1] = position;
    return lensnet_record(g, &lnp_tokens, &x, parameters, NULL);
}

/* --- token --------------------------------------------------------------------------------------- */

/* x (N, H, W, C) -> y (N, 1, 1, C), one of its pixels. */

static lensnet_result lnp_token_shape(lensnet_node *node, lensnet_error *error)
{
    const size_t index = *(const size_t *)lensnet_node_options(node);
    if (index >= lnp_pixels(lnp_in(node)))
        return lnp_fail(error, LENSNET_ERROR_SHAPE, "token: number %zu of %zu pixels", index,
                        lnp_pixels(lnp_in(node)));
    lensnet_node_shape(node, 1, 1, lnp_in(node)->c);
    return LENSNET_OK;
}

static void lnp_token_forward(const lensnet_node *node)
{
    const lensnet_view x = lensnet_node_input(node, 0), y = lensnet_node_output(node);
    const size_t index = *(const size_t *)lensnet_node_options(node);
    size_t n;
    for (n = 0; n < x.n; n++)
        memcpy(y.value + n * y.c, x.value + (n * x.h * x.w + index) * y.c, y.c * sizeof(float));
}

static void lnp_token_backward(const lensnet_node *node)
{
    const lensnet_view x = lensnet_node_input(node, 0), y = lensnet_node_output(node);
    const size_t index = *(const size_t *)lensnet_node_options(node);
    size_t n;
    if (!x.gradient) return;
    memset(x.gradient, 0, x.n * x.h * x.w * x.c * sizeof(float));
    for (n = 0; n < x.n; n++)
        memcpy(x.gradient + (n * x.h * x.w + index) * y.c, y.gradient + n * y.c,
               y.c * sizeof(float));
}

static const lensnet_operator lnp_token = {
    "token", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, sizeof(size_t), 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_token_shape, NULL, lnp_token_forward, lnp_token_backward, NULL, NULL};

lensnet_tensor lensnet_token(lensnet_graph *g, lensnet_tensor x, size_t index)
{
    return lensnet_record(g, &lnp_token, &x, NULL, &index);
}

/* --- attention ----------------------------------------------------------------------------------- */

/* qkv (N, H, W, 3 C) -> y (N, H, W, C); kept: the probabilities, (N, heads, H W, H W). A token is a pixel.
 * One head of one sample after the other: its products are shared out among the threads. */

typedef struct lnp_attention {
    lensnet_graph *g;
    const lnp_gemm_kernels *gemm;  /* of float32 */
    size_t heads, tokens, wide, c; /* wide: channels of a head, c / heads */
    float *q, *k, *v, *o, *out;    /* (tokens, wide), of one head; q is scaled */
    float *scores;                 /* (tokens, tokens) */
    float *packed, *scratch;       /* of the products */
} lnp_attention;

static lnp_attention lnp_attention_of(const lensnet_node *node)
{
    const size_t tokens = lnp_pixels(lnp_in(node)),
                 heads = *(const size_t *)lensnet_node_options(node);
    lnp_attention t;
    size_t matrix;
    memset(&t, 0, sizeof t);
    t.g = node->graph;
    t.gemm = &t.g->parameters->gemm[LENSNET_PRECISION_FP32];
    t.heads = heads;
    t.tokens = tokens;
    t.c = lnp_in(node)->c / 3;
    t.wide = t.c / heads;
    if (!t.g->memory) return t;
    matrix = lnp_round_up(tokens * t.wide, 16);
    t.q = t.g->run.scratch;
    t.k = t.q + matrix;
    t.v = t.k + matrix;
    t.o = t.v + matrix;
    t.out = t.o + matrix;
    t.scores = t.out + matrix;
    t.packed = t.scores + lnp_round_up(tokens * tokens, 16);
    t.scratch = t.packed + lnp_round_up(lnp_max(lnp_packed_floats(t.gemm, tokens, t.wide),
                                                lnp_packed_floats(t.gemm, t.wide, tokens)),
                                        16);
    return t;
}

static lensnet_result lnp_attention_shape(lensnet_node *node, lensnet_error *error)
{
    const size_t heads = *(const size_t *)lensnet_node_options(node);
    const lnp_activation *x = lnp_in(node);
    if (!heads || x->c % (3 * heads))
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "attention: %zu channels are not 3 times %zu heads", x->c, heads);
    lensnet_node_shape(node, x->h, x->w, x->c / 3);
    return LENSNET_OK;
}

static void lnp_attention_plan(lensnet_node *node)
{
    const lnp_attention t = lnp_attention_of(node);
    const size_t tokens = t.tokens, wide = t.wide;
    const int threads = t.g->team.threads;
    size_t products = lnp_max(lnp_product_scratch_floats(t.gemm, tokens, wide, threads),
                              lnp_product_scratch_floats(t.gemm, tokens, tokens, threads));
    products =
        lnp_max(products, lnp_gradient_scratch_floats(t.gemm, tokens, tokens, wide, threads));
    lensnet_node_keep(node, t.heads * tokens * tokens);
    lensnet_node_reserve(node, 5 * lnp_round_up(tokens * wide, 16) +
                                   lnp_round_up(tokens * tokens, 16) + products +
                                   lnp_round_up(lnp_max(lnp_packed_floats(t.gemm, tokens, wide),
                                                        lnp_packed_floats(t.gemm, wide, tokens)),
                                                16));
}

/* Between a head's own matrix and its columns in all channels. */
static void lnp_head_copy(const lnp_attention *t, float *to, size_t to_stride, const float *from,
                          size_t from_stride)
{
    size_t i;
    for (i = 0; i < t->tokens; i++)
        memcpy(to + i * to_stride, from + i * from_stride, t->wide * sizeof(float));
}

/* q (scaled), k and v of head `head`; qkv at its sample. */
static void lnp_head_take(const lnp_attention *t, const float *qkv, size_t head)
{
    const float *from = qkv + head * t->wide;
    lnp_head_copy(t, t->q, t->wide, from, 3 * t->c);
    lnp_head_copy(t, t->k, t->wide, from + t->c, 3 * t->c);
    lnp_head_copy(t, t->v, t->wide, from + 2 * t->c, 3 * t->c);
    t->g->kernels.scale(t->q, t->q, (float)(1.0 / sqrt((double)t->wide)), t->tokens * t->wide);
}

/* out (tokens, n) = a (tokens, k) B, B (k, n) = b, or b (n, k) transposed. */
static void lnp_head_product(const lnp_attention *t, float *out, size_t n, const float *a, size_t k,
                             const float *b, int transposed)
{
    lnp_product job;
    memset(&job, 0, sizeof job);
    lnp_pack_weights(t->gemm, t->packed, b, n, k, transposed, &t->g->team);
    job.m = t->tokens;
    job.n = n;
    job.k = k;
    job.a = a;
    job.a_stride = k;
    job.packed = t->packed;
    job.out = out;
    job.out_stride = n;
    lnp_multiply_rows(t->gemm, &job, t->scratch, &t->g->team);
}

/* t->out (tokens, wide) = p^T x, p (tokens, tokens), x (tokens, wide). */
static void lnp_head_transposed(const lnp_attention *t, const float *p, const float *x)
{
    lnp_gradient_product job;
    memset(&job, 0, sizeof job);
    memset(t->out, 0, t->tokens * t->wide * sizeof(float));
    job.m = job.n = job.segment_rows = t->tokens;
    job.k = t->wide;
    job.dy = p;
    job.dy_stride = t->tokens;
    job.x = x;
    job.x_stride = t->wide;
    job.dw = t->out;
    lnp_multiply_gradient(t->gemm, &job, t->scratch, &t->g->team);
}

static void lnp_attention_forward(const lensnet_node *node)
{
    const lnp_attention t = lnp_attention_of(node);
    const float *qkv = lnp_input_value(node, 0);
    float *y = lnp_output_value(node), *p = lensnet_node_kept(node, 0);
    size_t sample, head;
    for (sample = 0; sample < t.g->run.n; sample++)
        for (head = 0; head < t.heads; head++, p += t.tokens * t.tokens) {
            lnp_head_take(&t, qkv + sample * t.tokens * 3 * t.c, head);
            lnp_head_product(&t, p, t.tokens, t.q, t.wide, t.k, 1);
            lnp_softmax(p, p, t.tokens, t.tokens);
            lnp_head_product(&t, t.out, t.wide, p, t.tokens, t.v, 0);
            lnp_head_copy(&t, y + sample * t.tokens * t.c + head * t.wide, t.c, t.out, t.wide);
        }
}

/* The gradients of a head's q, k and v, into dqkv at its sample; dy at the sample and head. */
static void lnp_head_backward(const lnp_attention *t, float *dqkv, const float *dy, const float *p)
{
    const float scale = (float)(1.0 / sqrt((double)t->wide));
    lnp_head_copy(t, t->o, t->wide, dy, t->c);
    lnp_head_transposed(t, p, t->o); /* dv = p^T dy */
    lnp_head_copy(t, dqkv + 2 * t->c, 3 * t->c, t->out, t->wide);
    lnp_head_product(t, t->scores, t->tokens, t->o, t->wide, t->v, 1); /* dp = dy v^T */
    lnp_softmax_through(t->scores, t->scores, p, t->tokens, t->tokens);
    lnp_head_product(t, t->out, t->wide, t->scores, t->tokens, t->k, 0); /* dq = ds k scale */
    t->g->kernels.scale(t->out, t->out, scale, t->tokens * t->wide);
    lnp_head_copy(t, dqkv, 3 * t->c, t->out, t->wide);
    lnp_head_transposed(t, t->scores, t->q); /* dk = ds^T q scale */
    lnp_head_copy(t, dqkv + t->c, 3 * t->c, t->out, t->wide);
}

static void lnp_attention_backward(const lensnet_node *node)
{
    const lnp_attention t = lnp_attention_of(node);
    const float *qkv = lnp_input_value(node, 0), *dy = lnp_output_gradient(node);
    const float *p = lensnet_node_kept(node, 0);
    float *dqkv = lnp_input_gradient(node, 0);
    size_t sample, head;
    for (sample = 0; dqkv && sample < t.g->run.n; sample++)
        for (head = 0; head < t.heads; head++, p += t.tokens * t.tokens) {
            const size_t at = sample * t.tokens * 3 * t.c;
            lnp_head_take(&t, qkv + at, head);
            lnp_head_backward(&t, dqkv + at + head * t.wide,
                              dy + sample * t.tokens * t.c + head * t.wide, p);
        }
}

static double lnp_attention_macs(const lensnet_node *node)
{
    const double tokens = (double)lnp_pixels(lnp_in(node));
    return 2 * tokens * tokens * (double)lnp_out(node)->c;
}

static const lensnet_operator lnp_attention_operator = {
    "attention", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, sizeof(size_t), LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_attention_shape, lnp_attention_plan, lnp_attention_forward, lnp_attention_backward,
    lnp_attention_macs, NULL};

lensnet_tensor lensnet_attention(lensnet_graph *g, lensnet_tensor qkv, size_t heads)
{
    return lensnet_record(g, &lnp_attention_operator, &qkv, NULL, &heads);
}

/* --- drop path --------------------------------------------------------------------------------- */

/* x (N, H, W, C) -> y of the same shape; one number for each of the N. */

typedef struct lnp_drop {
    float rate;
    uint64_t index; /* how many drop paths were recorded before */
} lnp_drop;

static lnp_drop lnp_drop_next(const lensnet_graph *g, float rate)
{
    lnp_drop drop;
    memset(&drop, 0, sizeof drop);
    drop.rate = rate;
    drop.index = g ? g->drop_paths : 0;
    return drop;
}

static lensnet_result lnp_drop_path_shape(lensnet_node *node, lensnet_error *error)
{
    const lnp_drop *drop = (const lnp_drop *)lensnet_node_options(node);
    if (!(drop->rate >= 0.0f && drop->rate < 1.0f))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "%s: rate %g, expected 0 <= rate < 1",
                        node->op->name, (double)drop->rate);
    node->graph->drop_paths++;
    return lnp_shape_same(node, error);
}

/* What sample `i` of the micro-batch is multiplied by: number (sample in batch) of the stream
 * (step, drop path) decides, so that neither splits nor resuming change it. */
static float lnp_drop_scale(const lensnet_node *node, size_t i)
{
    const lnp_drop *drop = (const lnp_drop *)lensnet_node_options(node);
    const lnp_run *run = &node->graph->run;
    const uint64_t stream = run->batch->step * 65536 + drop->index;
    if (!node->graph->options.training || drop->rate <= 0.0f) return 1.0f;
    if (lensnet_random_uniform(run->batch->seed, stream, lnp_image_number(run, i)) <
        (double)drop->rate)
        return 0.0f;
    return 1.0f / (1.0f - drop->rate);
}

static void lnp_scale_samples(const lensnet_node *node, float *to, const float *from)
{
    const lensnet_graph *g = node->graph;
    size_t floats = lnp_sample_floats(lnp_in(node)), i;
    for (i = 0; i < g->run.n; i++)
        g->kernels.scale(to + i * floats, from + i * floats, lnp_drop_scale(node, i), floats);
}

static void lnp_drop_path_forward(const lensnet_node *node)
{
    lnp_scale_samples(node, lnp_output_value(node), lnp_input_value(node, 0));
}

static void lnp_drop_path_backward(const lensnet_node *node)
{
    float *dx = lnp_input_gradient(node, 0);
    if (dx) lnp_scale_samples(node, dx, lnp_output_gradient(node));
}

static const lensnet_operator lnp_drop_path = {
    "drop path", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, sizeof(lnp_drop), 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_drop_path_shape, NULL, lnp_drop_path_forward, lnp_drop_path_backward, NULL, NULL};

lensnet_tensor lensnet_drop_path(lensnet_graph *g, lensnet_tensor x, float rate)
{
    const lnp_drop drop = lnp_drop_next(g, rate);
    return lensnet_record(g, &lnp_drop_path, &x, NULL, &drop);
}

/* --- dropout ------------------------------------------------------------------------------------- */

/* x -> y, any shape. The same random numbers say again in backward what was dropped. */

static void lnp_dropout_sample(const lensnet_node *node, size_t sample, float *to,
                               const float *from)
{
    const lnp_drop *drop = (const lnp_drop *)lensnet_node_options(node);
    const lnp_run *run = &node->graph->run;
    const size_t floats = lnp_sample_floats(lnp_in(node));
    const uint64_t stream = run->batch->step * 65536 + drop->index;
    const uint64_t first = lnp_image_number(run, sample) * floats;
    const float scale = 1.0f / (1.0f - drop->rate);
    size_t i;
    for (i = 0; i < floats; i++) {
        const double u = lensnet_random_uniform(run->batch->seed, stream, first + i);
        to[i] = u < (double)drop->rate ? 0.0f : from[i] * scale;
    }
}

static void lnp_dropout_task(const void *context, size_t sample, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const size_t at = sample * lnp_sample_floats(lnp_in(node));
    (void)worker;
    if (node->graph->run.turned)
        lnp_dropout_sample(node, sample, lnp_input_gradient(node, 0) + at,
                           lnp_output_gradient(node) + at);
    else
        lnp_dropout_sample(node, sample, lnp_output_value(node) + at,
                           lnp_input_value(node, 0) + at);
}

static void lnp_dropout_forward(const lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    if (g->options.training)
        lensnet_node_run(node, lnp_dropout_task, g->run.n);
    else
        memcpy(lnp_output_value(node), lnp_input_value(node, 0),
               lnp_tensor_floats(g, node->output) * sizeof(float));
}

static void lnp_dropout_backward(const lensnet_node *node)
{
    if (lnp_input_gradient(node, 0)) lensnet_node_run(node, lnp_dropout_task, node->graph->run.n);
}

static const lensnet_operator lnp_dropout = {
    "dropout", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, sizeof(lnp_drop), 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_drop_path_shape, NULL, lnp_dropout_forward, lnp_dropout_backward, NULL, NULL};

lensnet_tensor lensnet_dropout(lensnet_graph *g, lensnet_tensor x, float rate)
{
    const lnp_drop drop = lnp_drop_next(g, rate);
    return lensnet_record(g, &lnp_dropout, &x, NULL, &drop);
}

/* --- pooling ----------------------------------------------------------------------------------- */

/* x (N, H, W, C) -> mean (N, 1, 1, C), or max (N, H', W', C), kept: where it stood, (N, H', W', C). */

static lensnet_result lnp_mean_pool_shape(lensnet_node *node, lensnet_error *error)
{
    lnp_shape_same(node, error);
    lnp_out(node)->h = lnp_out(node)->w = 1;
    return LENSNET_OK;
}

static void lnp_mean_pool_forward(const lensnet_node *node)
{
    const lensnet_graph *g = node->graph;
    const lnp_activation *x = lnp_in(node);
    lnp_pool_mean(&g->kernels, lnp_output_value(node), lnp_input_value(node, 0), g->run.n,
                  lnp_pixels(x), x->c);
}

static void lnp_mean_pool_backward(const lensnet_node *node)
{
    const lnp_activation *x = lnp_in(node);
    float *dx = lnp_input_gradient(node, 0);
    if (dx)
        lnp_pool_mean_backward(dx, lnp_output_gradient(node), node->graph->run.n, lnp_pixels(x),
                               x->c);
}

static const lensnet_operator lnp_mean_pool = {
    "mean pool", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, 0, 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_mean_pool_shape, NULL, lnp_mean_pool_forward, lnp_mean_pool_backward, NULL, NULL};

lensnet_tensor lensnet_mean_pool(lensnet_graph *g, lensnet_tensor x)
{
    return lensnet_record(g, &lnp_mean_pool, &x, NULL, NULL);
}

typedef struct lnp_window {
    size_t kernel, stride, padding;
} lnp_window;

static lensnet_result lnp_window_shape(lensnet_node *node, lensnet_error *error)
{
    const lnp_window *p = (const lnp_window *)lensnet_node_options(node);
    const lnp_activation *x = lnp_in(node);
    lnp_activation *y = lnp_out(node);
    if (!p->kernel || !p->stride || p->kernel > 4096 || 2 * p->padding > p->kernel)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "%s: kernel and stride must be > 0 and padding at most half the kernel",
                        node->op->name);
    y->h = lnp_conv_outputs(x->h, p->kernel, p->stride, p->padding, 1);
    y->w = lnp_conv_outputs(x->w, p->kernel, p->stride, p->padding, 1);
    y->c = x->c;
    if (!y->h || !y->w)
        return lnp_fail(error, LENSNET_ERROR_SHAPE, "%s: kernel %zu does not fit %zu x %zu",
                        node->op->name, p->kernel, x->h, x->w);
    return LENSNET_OK;
}

static lnp_pool_shape lnp_pool_shape_of(const lensnet_node *node)
{
    const lnp_window *p = (const lnp_window *)lensnet_node_options(node);
    const lnp_activation *x = lnp_in(node), *y = lnp_out(node);
    lnp_pool_shape shape;
    shape.n = node->graph->run.n;
    shape.h = x->h;
    shape.w = x->w;
    shape.c = x->c;
    shape.kernel = p->kernel;
    shape.stride = p->stride;
    shape.pad = p->padding;
    shape.out_h = y->h;
    shape.out_w = y->w;
    return shape;
}

static void lnp_max_pool_plan(lensnet_node *node)
{
    lensnet_node_keep(node, lnp_sample_floats(lnp_out(node))); /* where, int32 */
}

static void lnp_max_pool_forward(const lensnet_node *node)
{
    const lnp_pool_shape shape = lnp_pool_shape_of(node);
    lnp_pool_max(lnp_output_value(node), (int32_t *)(void *)lensnet_node_kept(node, 0),
                 lnp_input_value(node, 0), &shape);
}

static void lnp_max_pool_backward(const lensnet_node *node)
{
    const lnp_pool_shape shape = lnp_pool_shape_of(node);
    float *dx = lnp_input_gradient(node, 0);
    if (dx)
        lnp_pool_max_backward(dx, lnp_output_gradient(node),
                              (const int32_t *)(void *)lensnet_node_kept(node, 0), &shape);
}

static const lensnet_operator lnp_max_pool = {
    "max pool", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, sizeof(lnp_window), 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_window_shape, lnp_max_pool_plan, lnp_max_pool_forward, lnp_max_pool_backward, NULL, NULL};

lensnet_tensor lensnet_max_pool(lensnet_graph *g, lensnet_tensor x, size_t kernel, size_t stride,
                                size_t padding)
{
    lnp_window window;
    window.kernel = kernel;
    window.stride = stride;
    window.padding = padding;
    return lensnet_record(g, &lnp_max_pool, &x, NULL, &window);
}

/* x (N, H, W, C) -> y (N, H', W', C): the sum of a window's pixels, row by row, times 1 / kernel^2. */

/* Steps through the pixels of one window that lie inside the image: its next one, or NULL. */
typedef struct lnp_window_walk {
    const lnp_pool_shape *shape;
    size_t out_y, out_x, tap;
} lnp_window_walk;

/* Where the next pixel of the window stands in its sample, in floats; 0 when there is none. */
static int lnp_window_next(lnp_window_walk *walk, size_t *at)
{
    const lnp_pool_shape *s = walk->shape;
    while (walk->tap < s->kernel * s->kernel) {
        const size_t y = walk->out_y * s->stride + walk->tap / s->kernel - s->pad;
        const size_t x = walk->out_x * s->stride + walk->tap % s->kernel - s->pad;
        walk->tap++;
        *at = (y * s->w + x) * s->c;
        if (y < s->h && x < s->w) return 1; /* what is above or left of the image has wrapped */
    }
    return 0;
}

static lnp_window_walk lnp_window_at(const lnp_pool_shape *shape, size_t pixel)
{
    lnp_window_walk walk;
    walk.shape = shape;
    walk.out_y = pixel / shape->out_w;
    walk.out_x = pixel % shape->out_w;
    walk.tap = 0;
    return walk;
}

static void lnp_average_sample(const void *context, size_t sample, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lnp_row_kernels *kernels = &node->graph->kernels;
    const lnp_pool_shape s = lnp_pool_shape_of(node);
    const float *x = lnp_input_value(node, 0) + sample * s.h * s.w * s.c;
    float *y = lnp_output_value(node) + sample * s.out_h * s.out_w * s.c;
    size_t pixel, at;
    (void)worker;
    for (pixel = 0; pixel < s.out_h * s.out_w; pixel++, y += s.c) {
        lnp_window_walk walk = lnp_window_at(&s, pixel);
        memset(y, 0, s.c * sizeof(float));
        while (lnp_window_next(&walk, &at)) kernels->add(y, y, x + at, s.c);
        kernels->scale(y, y, 1.0f / (float)(s.kernel * s.kernel), s.c);
    }
}

static void lnp_average_back_sample(const void *context, size_t sample, size_t worker)
{
    const lensnet_node *node = (const lensnet_node *)context;
    const lnp_row_kernels *kernels = &node->graph->kernels;
    const lnp_pool_shape s = lnp_pool_shape_of(node);
    float *dx = lnp_input_gradient(node, 0) + sample * s.h * s.w * s.c;
    const float *dy = lnp_output_gradient(node) + sample * s.out_h * s.out_w * s.c;
    size_t pixel, at;
    (void)worker;
    memset(dx, 0, s.h * s.w * s.c * sizeof(float));
    for (pixel = 0; pixel < s.out_h * s.out_w; pixel++, dy += s.c) {
        lnp_window_walk walk = lnp_window_at(&s, pixel);
        while (lnp_window_next(&walk, &at))
            kernels->add_scaled(dx + at, dx + at, dy, 1.0f / (float)(s.kernel * s.kernel), s.c);
    }
}

static void lnp_average_pool_forward(const lensnet_node *node)
{
    lensnet_node_run(node, lnp_average_sample, node->graph->run.n);
}

static void lnp_average_pool_backward(const lensnet_node *node)
{
    if (lnp_input_gradient(node, 0))
        lensnet_node_run(node, lnp_average_back_sample, node->graph->run.n);
}

static const lensnet_operator lnp_average_pool = {
    "average pool", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, sizeof(lnp_window), 0,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_window_shape, NULL, lnp_average_pool_forward, lnp_average_pool_backward, NULL, NULL};

lensnet_tensor lensnet_average_pool(lensnet_graph *g, lensnet_tensor x, size_t kernel,
                                    size_t stride, size_t padding)
{
    lnp_window window;
    window.kernel = kernel;
    window.stride = stride;
    window.padding = padding;
    return lensnet_record(g, &lnp_average_pool, &x, NULL, &window);
}

/* --- softmax cross-entropy --------------------------------------------------------------------- */

/* logits (N, 1, 1, K) and the batch's labels (N) or targets (N, K) -> a number. */

lensnet_loss lensnet_loss_defaults(void)
{
    lensnet_loss loss;
    loss.label_smoothing = 0.0f;
    loss.class_weights = NULL;
    loss.weight = 1.0f;
    return loss;
}

static int lnp_loss_valid(const lensnet_loss *loss, size_t classes)
{
    size_t k;
    if (!(loss->label_smoothing >= 0.0f && loss->label_smoothing < 1.0f)) return 0;
    for (k = 0; loss->class_weights && k < classes; k++)
        if (!(loss->class_weights[k] >= 0.0f) || loss->class_weights[k] > 3.0e38f) return 0;
    return 1;
}

static lensnet_result lnp_cross_entropy_shape(lensnet_node *node, lensnet_error *error)
{
    const lnp_activation *x = lnp_in(node);
    const lensnet_graph *g = node->graph;
    int k;
    if (x->h != 1 || x->w != 1)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "cross-entropy: logits are (N, %zu, %zu, %zu), expected (N, 1, 1, K)", x->h,
                        x->w, x->c);
    if (!lnp_loss_valid((const lensnet_loss *)lensnet_node_options(node), x->c))
        return lnp_fail(
            error, LENSNET_ERROR_ARGUMENT,
            "cross-entropy: label smoothing must be 0 ... < 1, weights finite and >= 0");
    for (k = 0; k < g->loss_count; k++)
        if (g->nodes[g->losses[k].node].op == node->op)
            return lnp_fail(error, LENSNET_ERROR_STATE, "cross-entropy: a graph has one at most");
    return LENSNET_OK;
}

static void lnp_cross_entropy_plan(lensnet_node *node)
{
    const size_t n = node->graph->micro_batch; /* losses (double), targets */
    node->scratch = 2 * lnp_round_up(n, 16) + lnp_round_up(n * lnp_in(node)->c, 16);
}

/* Sums the weights of the labels, or their number: what the loss is divided by. Of a part it cannot know
 * that of the whole unless every label counts 1. */
static lensnet_result lnp_cross_entropy_begin(const lensnet_node *node, lensnet_error *error)
{
    const lensnet_batch *b = node->graph->run.batch;
    const size_t classes = lnp_in(node)->c;
    double divisor = b->targets ? (double)lnp_batch_total(b) : 0.0;
    size_t i;
    for (i = 0; b->labels && i < b->count; i++) {
        const int label = b->labels[i];
        if (label >= 0 && (size_t)label >= classes)
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "batch: label %d of image %zu, expected 0 ... %zu, or < 0 to ignore it",
                            label, i, classes - 1);
        if (label >= 0 && !b->targets)
            divisor += node->constants ? (double)node->constants[label] : 1.0;
    }
    if (b->total && b->labels && !b->targets) {
        if (b->total_weight == 0.0 && divisor != (double)b->count)
            return lnp_fail(
                error, LENSNET_ERROR_ARGUMENT,
                "batch: a part with labels that are ignored or weighted needs total_weight");
        divisor = b->total_weight > 0.0 ? b->total_weight : (double)b->total;
    }
    if (b->labels || b->targets) lensnet_loss_given(node, divisor);
    return LENSNET_OK;
}

/* Row of the target matrix for a label: numerics of torch.nn.functional.cross_entropy. A negative
 * label gives zeros: it takes part in nothing. */
static void lnp_target_row(float *target, int label, const lensnet_node *node, size_t classes)
{
    const lensnet_loss *options = (const lensnet_loss *)lensnet_node_options(node);
    const double smoothing = (double)options->label_smoothing;
    size_t k;
    for (k = 0; k < classes; k++) {
        double weight = node->constants ? (double)node->constants[k] : 1.0;
        double t = smoothing / (double)classes * weight;
        if ((int)k == label) t += (1 - smoothing) * weight;
        target[k] = label < 0 ? 0.0f : (float)t;
    }
}

/* losses: one a sample; dlogits: may be NULL. */
static void lnp_cross_entropy_rows(const lensnet_node *node, double *losses, float *dlogits)
{
    const lensnet_graph *g = node->graph;
    const lensnet_batch *batch = g->run.batch;
    const size_t k = lnp_in(node)->c;
    float *targets = g->run.scratch + 2 * lnp_round_up(g->micro_batch, 16);
    size_t i;
    for (i = 0; i < g->run.n; i++)
        if (batch->targets)
            memcpy(targets + i * k, batch->targets + (g->run.first + i) * k, k * sizeof(float));
        else
            lnp_target_row(targets + i * k, batch->labels[g->run.first + i], node, k);
    lnp_softmax_cross_entropy(losses, dlogits, lnp_input_value(node, 0), targets,
                              lensnet_loss_scale(node), g->run.n, k);
}

static void lnp_cross_entropy_forward(const lensnet_node *node)
{
    double *losses = (double *)(void *)node->graph->run.scratch;
    size_t i;
    lnp_cross_entropy_rows(node, losses, NULL);
    for (i = 0; i < node->graph->run.n; i++) lensnet_loss_add(node, losses[i]);
}

static void lnp_cross_entropy_backward(const lensnet_node *node)
{
    double *losses = (double *)(void *)node->graph->run.scratch;
    float *dx = lnp_input_gradient(node, 0);
    if (dx) lnp_cross_entropy_rows(node, losses, dx);
}

static const lensnet_operator lnp_cross_entropy = {
    "cross-entropy", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, sizeof(lensnet_loss), LENSNET_READS_INPUT | LENSNET_IS_LOSS,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_cross_entropy_shape, lnp_cross_entropy_plan, lnp_cross_entropy_forward,
    lnp_cross_entropy_backward, NULL, lnp_cross_entropy_begin};

void lensnet_cross_entropy(lensnet_graph *g, lensnet_tensor logits, const lensnet_loss *loss)
{
    const lensnet_loss defaults = lensnet_loss_defaults();
    lensnet_node *node;
    if (!loss) loss = &defaults;
    node = lnp_loss_record(g, &lnp_cross_entropy, logits, NULL, loss->weight, loss);
    if (!node) return;
    if (loss->class_weights) lnp_keep_constants(node, loss->class_weights, lnp_in(node)->c);
    lensnet_output(g, logits);
}

/* --- losses of every value by itself ------------------------------------------------------------ */

/* x (N, H, W, C), targets of the same shape -> a number. */

/* The loss of one value, or its slope. */
typedef double (*lnp_value_loss)(double x, double t);

/* Each sample's values in their order, then the samples in theirs. */
static void lnp_value_loss_forward(const lensnet_node *node, lnp_value_loss loss)
{
    const size_t floats = lnp_sample_floats(lnp_in(node));
    const float *x = lnp_input_value(node, 0), *t = lensnet_loss_targets(node);
    size_t i, k;
    for (i = 0; i < node->graph->run.n; i++) {
        double sum = 0.0;
        for (k = i * floats; k < (i + 1) * floats; k++)
            if (t[k] == t[k]) sum += loss((double)x[k], (double)t[k]);
        lensnet_loss_add(node, sum);
    }
}

static void lnp_value_loss_backward(const lensnet_node *node, lnp_value_loss slope)
{
    const size_t floats = lnp_tensor_floats(node->graph, node->inputs[0]);
    const float *x = lnp_input_value(node, 0), *t = lensnet_loss_targets(node);
    const double scale = lensnet_loss_scale(node);
    float *dx = lnp_input_gradient(node, 0);
    size_t k;
    for (k = 0; dx && k < floats; k++)
        dx[k] = t[k] == t[k] ? (float)(scale * slope((double)x[k], (double)t[k])) : 0.0f;
}

static double lnp_squared_difference(double x, double t) { return (x - t) * (x - t); }
static double lnp_squared_difference_slope(double x, double t) { return 2 * (x - t); }

static void lnp_squared_error_forward(const lensnet_node *node)
{
    lnp_value_loss_forward(node, lnp_squared_difference);
}

static void lnp_squared_error_backward(const lensnet_node *node)
{
    lnp_value_loss_backward(node, lnp_squared_difference_slope);
}

static const lensnet_operator lnp_squared_error = {
    "squared error", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, 0, LENSNET_READS_INPUT | LENSNET_IS_LOSS,
    /* shape, plan, forward, backward, macs, begin: */
    NULL, NULL, lnp_squared_error_forward, lnp_squared_error_backward, NULL, NULL};

void lensnet_squared_error(lensnet_graph *g, lensnet_tensor x, const char *target, float weight)
{
    lensnet_record_loss(g, &lnp_squared_error, x, target, weight, NULL);
}

/* log(1 + exp(-|x|)) is the part that would overflow if it were written as in the definition. */
static double lnp_logistic_loss(double x, double t)
{
    return (x < 0 ? 0.0 : x) - x * t + lensnet_log(1 + lensnet_exp(-fabs(x)));
}

static double lnp_logistic_loss_slope(double x, double t)
{
    const double small = lensnet_exp(-fabs(x));
    return (x < 0 ? small / (1 + small) : 1 / (1 + small)) - t;
}

static void lnp_binary_cross_entropy_forward(const lensnet_node *node)
{
    lnp_value_loss_forward(node, lnp_logistic_loss);
}

static void lnp_binary_cross_entropy_backward(const lensnet_node *node)
{
    lnp_value_loss_backward(node, lnp_logistic_loss_slope);
}

static const lensnet_operator lnp_binary_cross_entropy = {
    "binary cross-entropy", /* inputs, weights, of these required, bytes of options, flags: */
    1, 0, 0, 0, LENSNET_READS_INPUT | LENSNET_IS_LOSS,
    /* shape, plan, forward, backward, macs, begin: */
    NULL, NULL, lnp_binary_cross_entropy_forward, lnp_binary_cross_entropy_backward, NULL, NULL};

void lensnet_binary_cross_entropy(lensnet_graph *g, lensnet_tensor x, const char *target,
                                  float weight)
{
    lensnet_record_loss(g, &lnp_binary_cross_entropy, x, target, weight, NULL);
}
/* =================================================================================================
 * >>block  One ConvNeXt V2 block as one operator:
 *
 *     y = x + drop_path(W2 grn(gelu(W1 layer_norm(depthwise(x)))))         (paper, figure 5)
 *
 * What it saves over its plain operators is memory traffic, not arithmetic: the norm is applied while
 * rows enter the first product, GELU and the sum of squares while its results are in cache, GRN while
 * rows enter the second product, the residual while its results are in cache. Kept for backward are x,
 * the depthwise output with its row statistics and the hidden layer before GELU: 6 C floats a pixel
 * instead of 15. Every sum has the order that the plain operators have, so the bits are the same.
 *
 * A group of samples goes through the wide part at a time, so that its 4 C floats a pixel stay in the
 * last-level cache while the block needs them.
 * ============================================================================================== */

enum {
    LNP_B_DEPTHWISE,
    LNP_B_DEPTHWISE_BIAS,
    LNP_B_NORM,
    LNP_B_NORM_BIAS,
    LNP_B_EXPAND,
    LNP_B_EXPAND_BIAS,
    LNP_B_GAMMA,
    LNP_B_BETA,
    LNP_B_REDUCE,
    LNP_B_REDUCE_BIAS,
    LNP_BLOCK_PARAMETERS
};

enum { LNP_SAVED_DEPTHWISE, LNP_SAVED_STATISTICS, LNP_SAVED_HIDDEN, LNP_SAVED_GRN };

/* Wide activations of a group: 1.5 M floats = 6 MB. One sample of Tiny's first stage at 224 is 4.8. */
#define LNP_GROUP_FLOATS ((size_t)3 << 19)

static const float lnp_block_norm_epsilon = 1e-6f;

static size_t lnp_block_samples(const lensnet_node *node)
{
    size_t wide = 4 * lnp_sample_floats(lnp_in(node));
    return lnp_min(node->graph->micro_batch, lnp_max(1, LNP_GROUP_FLOATS / lnp_max(wide, 1)));
}

static int lnp_block_keeps_hidden(const lensnet_graph *g)
{
    return g->options.training && !g->options.recompute;
}

/* One group of samples on its way through a block: everything its steps need, as pointers to its first
 * sample. */
typedef struct lnp_block {
    lensnet_graph *g;
    const lensnet_node *node;
    size_t samples, pixels, rows, c, wide; /* rows = samples * pixels, wide = 4 c */
    const float *x;
    float *depthwise, *mean, *rstd;     /* saved */
    float *hidden;                      /* W1 ... + b1, before GELU */
    float *active;                      /* gelu(hidden) */
    const lnp_half_kernels *half;       /* of bf16; NULL in fp32 */
    uint16_t *hidden16, *active16;      /* these two in bf16; without backward there is no hidden */
    float *norm;                        /* G of GRN, saved: (samples, wide) */
    float *factor, *coefficient;        /* of GRN: (samples, wide) */
    double *totals;                     /* (samples, wide) */
    float *squares;                     /* chunk sums: (samples, chunks, wide) */
    const float *dy, *dz;               /* gradients of y, and of the branch: dz = scale * dy */
    float *dscaled, *dactive, *dnarrow; /* dz's place; (rows, wide), (rows, c) */
    float *wide_sums[2];                /* chunk sums: (samples, chunks, wide) */
    float *narrow_sums[2];              /* (samples, chunks, c) */
    float *bands;                       /* of the depthwise gradient */
    float *scratch;                     /* of the products */
    const float *scales;                /* drop path, one a sample */
    float *y;
} lnp_block;

/* Floats of each part of the scratch, in the order in which lnp_block_begin lays them out. */
typedef struct lnp_block_parts {
    size_t scales, per_sample, squares, hidden, active, dactive, narrow;
    size_t wide_sums, narrow_sums, bands, product;
} lnp_block_parts;

/* The depthwise convolution over an input. */
static lnp_depthwise_geometry lnp_block_geometry(const lnp_activation *x)
{
    return lnp_depthwise_geometry_of(7, 1, 3, x->h, x->w, x->c);
}

/* Floats that so many rows of the hidden layer take where they are kept. */
static size_t lnp_block_wide_floats(const lensnet_node *node, size_t rows)
{
    return rows * lnp_in(node)->c * (node->precision == LENSNET_PRECISION_BF16 ? 2 : 4);
}

static lnp_block_parts lnp_block_sizes(const lensnet_node *node)
{
    const lnp_depthwise_geometry depthwise = lnp_block_geometry(lnp_in(node));
    const lensnet_graph *g = node->graph;
    const lnp_activation *x = lnp_in(node);
    size_t group = lnp_block_samples(node), pixels = lnp_pixels(x), rows = group * pixels;
    size_t c = x->c, wide = 4 * c, chunks = group * lnp_chunk_count(pixels);
    int training = g->options.training;
    lnp_block_parts s;
    s.scales = lnp_round_up(g->micro_batch, 16);
    s.per_sample = lnp_round_up(group * wide, 16);
    s.squares = training ? 0 : lnp_round_up(chunks * wide, 16);
    s.active = lnp_round_up(lnp_block_wide_floats(node, rows), 16);
    s.hidden = training && g->options.recompute ? s.active : 0;
    s.dactive = training ? lnp_round_up(rows * wide, 16) : 0;
    s.narrow = training ? lnp_round_up(rows * c, 16) : 0;
    s.wide_sums = training ? lnp_round_up(chunks * wide, 16) : 0;
    s.narrow_sums = training ? lnp_round_up(chunks * c, 16) : 0;
    s.bands = training ? lnp_depthwise_scratch_floats(group, &depthwise) : 0;
    s.product =
        lnp_max(lnp_linear_scratch(node, rows, wide, c), lnp_linear_scratch(node, rows, c, wide));
    return s;
}

static void lnp_block_plan(lensnet_node *node)
{
    const lnp_activation *x = lnp_in(node);
    lnp_block_parts s = lnp_block_sizes(node);
    node->saved[LNP_SAVED_DEPTHWISE] = lnp_saved_add(node, lnp_sample_floats(x));
    node->saved[LNP_SAVED_STATISTICS] = lnp_saved_add(node, 2 * lnp_pixels(x));
    if (lnp_block_keeps_hidden(node->graph))
        node->saved[LNP_SAVED_HIDDEN] =
            lnp_saved_add(node, lnp_block_wide_floats(node, lnp_pixels(x)));
    node->saved[LNP_SAVED_GRN] = lnp_saved_add(node, 4 * x->c);
    node->scratch = s.scales + 4 * s.per_sample + s.squares + s.hidden + s.active + s.dactive +
                    2 * s.narrow + 2 * s.wide_sums + 2 * s.narrow_sums + s.bands + s.product;
}

static float *lnp_take(float **scratch, size_t floats)
{
    float *part = *scratch;
    *scratch += floats;
    return floats ? part : NULL;
}

/* The group that begins with sample `first` of the micro-batch. */
static lnp_block lnp_block_begin(const lensnet_node *node, size_t first)
{
    lensnet_graph *g = node->graph;
    const lnp_activation *x = lnp_in(node);
    lnp_block_parts s = lnp_block_sizes(node);
    float *scratch = g->run.scratch;
    float *scales = lnp_take(&scratch, s.scales);
    float *statistics = lensnet_node_kept(node, LNP_SAVED_STATISTICS);
    float *kept = lensnet_node_kept(node, LNP_SAVED_HIDDEN);
    lnp_block b;
    size_t i;
    memset(&b, 0, sizeof b);
    b.g = g;
    b.node = node;
    b.samples = lnp_min(lnp_block_samples(node), g->run.n - first);
    b.pixels = lnp_pixels(x);
    b.rows = b.samples * b.pixels;
    b.c = x->c;
    b.wide = 4 * x->c;
    b.x = lnp_input_value(node, 0) + first * b.pixels * b.c;
    b.y = lnp_output_value(node) + first * b.pixels * b.c;
    b.depthwise = lensnet_node_kept(node, LNP_SAVED_DEPTHWISE) + first * b.pixels * b.c;
    b.mean = statistics + first * b.pixels;
    b.rstd = statistics + (g->micro_batch + first) * b.pixels;
    b.norm = lensnet_node_kept(node, LNP_SAVED_GRN) + first * b.wide;
    b.totals = (double *)(void *)lnp_take(&scratch, 2 * s.per_sample);
    b.factor = lnp_take(&scratch, s.per_sample);
    b.coefficient = lnp_take(&scratch, s.per_sample);
    b.squares = lnp_take(&scratch, s.squares);
    b.hidden = lnp_take(&scratch, s.hidden);
    if (kept) b.hidden = kept + lnp_block_wide_floats(node, first * b.pixels);
    b.active = lnp_take(&scratch, s.active);
    if (node->precision == LENSNET_PRECISION_BF16) b.half = g->half;
    b.hidden16 = (uint16_t *)(void *)b.hidden;
    b.active16 = (uint16_t *)(void *)b.active;
    if (!b.hidden) b.hidden = b.active; /* forward only: GELU in place */
    b.dactive = lnp_take(&scratch, s.dactive);
    b.dnarrow = lnp_take(&scratch, s.narrow);
    b.dscaled = lnp_take(&scratch, s.narrow);
    for (i = 0; i < 2; i++) {
        b.wide_sums[i] = lnp_take(&scratch, s.wide_sums);
        b.narrow_sums[i] = lnp_take(&scratch, s.narrow_sums);
    }
    b.bands = lnp_take(&scratch, s.bands);
    if (!b.squares) b.squares = b.wide_sums[0];
    b.scratch = scratch;
    for (i = 0; i < b.samples; i++) scales[first + i] = lnp_drop_scale(node, first + i);
    b.scales = scales + first;
    return b;
}

/* lnp_fill: rows of layer_norm(depthwise). */
static void lnp_block_normalized(const void *context, float *rows, size_t stride, size_t first_row,
                                 size_t row_count, size_t first_k, size_t k_count)
{
    const lnp_block *b = (const lnp_block *)context;
    const float *x = b->depthwise + first_row * b->c + first_k;
    b->g->kernels.normalize_rows(rows, stride, x, b->c, b->mean + first_row, b->rstd + first_row,
                                 lnp_parameter_values(b->node, LNP_B_NORM) + first_k,
                                 lnp_parameter_values(b->node, LNP_B_NORM_BIAS) + first_k,
                                 row_count, k_count);
}

/* lnp_fill: rows of grn(active). */
static void lnp_block_responses(const void *context, float *rows, size_t stride, size_t first_row,
                                size_t row_count, size_t first_k, size_t k_count)
{
    const lnp_block *b = (const lnp_block *)context;
    const float *shift = lnp_parameter_values(b->node, LNP_B_BETA) + first_k;
    while (row_count) { /* one sample's rows at a time */
        size_t sample = first_row / b->pixels;
        size_t count = lnp_min(row_count, (sample + 1) * b->pixels - first_row);
        const size_t at = first_row * b->wide + first_k;
        const float *factor = b->factor + sample * b->wide + first_k;
        if (b->half)
            b->half->scale_shift(rows, stride, b->active16 + at, b->wide, factor, shift, count,
                                 k_count);
        else
            b->g->kernels.scale_shift_rows(rows, stride, b->active + at, b->wide, factor, shift,
                                           count, k_count);
        rows += count * stride;
        first_row += count;
        row_count -= count;
    }
}

/* lnp_fill16: the same two. */
static void lnp_block_normalized16(const void *context, uint16_t *rows, size_t stride,
                                   size_t first_row, size_t row_count, size_t first_k,
                                   size_t k_count)
{
    const lnp_block *b = (const lnp_block *)context;
    b->half->normalize(
        rows, stride, b->depthwise + first_row * b->c + first_k, b->c, b->mean + first_row,
        b->rstd + first_row, lnp_parameter_values(b->node, LNP_B_NORM) + first_k,
        lnp_parameter_values(b->node, LNP_B_NORM_BIAS) + first_k, row_count, k_count);
}

static void lnp_block_responses16(const void *context, uint16_t *rows, size_t stride,
                                  size_t first_row, size_t row_count, size_t first_k,
                                  size_t k_count)
{
    const lnp_block *b = (const lnp_block *)context;
    const float *shift = lnp_parameter_values(b->node, LNP_B_BETA) + first_k;
    while (row_count) {
        const size_t sample = first_row / b->pixels;
        const size_t count = lnp_min(row_count, (sample + 1) * b->pixels - first_row);
        b->half->respond(rows, stride, b->active16 + first_row * b->wide + first_k, b->wide,
                         b->factor + sample * b->wide + first_k, shift, count, k_count);
        rows += count * stride;
        first_row += count;
        row_count -= count;
    }
}

/* lnp_finish of the first product: GELU, and the sums of squares of the chunks it holds. */
static void lnp_block_activate(const void *context, float *outputs, size_t stride, size_t first_row,
                               size_t row_count, size_t first_column, size_t column_count)
{
    const lnp_block *b = (const lnp_block *)context;
    lnp_chunk chunk;
    size_t row;
    for (row = first_row; row < first_row + row_count; row += chunk.rows) {
        const size_t at = row * b->wide + first_column;
        float *squares;
        chunk = lnp_chunk_at(row, b->pixels);
        squares = b->squares + chunk.index * b->wide + first_column;
        memset(squares, 0, column_count * sizeof(float));
        if (b->half)
            b->half->gelu_squares(b->active16 + at, b->hidden16 ? b->hidden16 + at : NULL, b->wide,
                                  outputs + (row - first_row) * stride, stride, squares, chunk.rows,
                                  column_count);
        else
            b->g->kernels.gelu_squares(b->active + at, b->wide, b->hidden + at, b->wide, squares,
                                       chunk.rows, column_count);
    }
}

/* lnp_finish of the second product: y = x + scale * y. */
static void lnp_block_residual(const void *context, float *outputs, size_t stride, size_t first_row,
                               size_t row_count, size_t first_column, size_t column_count)
{
    const lnp_block *b = (const lnp_block *)context;
    size_t row;
    for (row = first_row; row < first_row + row_count; row++, outputs += stride)
        b->g->kernels.add_scaled(outputs, b->x + row * b->c + first_column, outputs,
                                 b->scales[row / b->pixels], column_count);
}

/* The hidden layer and, if wanted, what comes of it; in bf16 there is no one without the other. */
static void lnp_block_expand(const lnp_block *b, int activate)
{
    lnp_product job = lnp_product_forward(b->node, LNP_B_EXPAND, LNP_B_EXPAND_BIAS, b->rows);
    job.a = b->depthwise; /* with a fill: only fetched ahead */
    job.fill = lnp_block_normalized;
    job.fill16 = lnp_block_normalized16;
    job.out = b->half ? NULL : b->hidden;
    job.finish = activate || b->half ? lnp_block_activate : NULL;
    job.context = b;
    job.segment_rows = b->pixels;
    job.chunk_rows = LNP_CHUNK_ROWS;
    lnp_multiply_rows(lnp_gemm_of(b->node), &job, b->scratch, &b->g->team);
}

static void lnp_block_grn_statistics(const lnp_block *b)
{
    size_t i, chunks = lnp_chunk_count(b->pixels);
    for (i = 0; i < b->samples; i++) {
        lnp_chunk_totals(b->totals + i * b->wide, b->squares + i * chunks * b->wide, chunks,
                         b->wide);
        lnp_grn_factors(b->norm + i * b->wide, b->factor + i * b->wide, b->totals + i * b->wide,
                        lnp_parameter_values(b->node, LNP_B_GAMMA), b->wide);
    }
}

static void lnp_block_reduce(const lnp_block *b)
{
    lnp_product job = lnp_product_forward(b->node, LNP_B_REDUCE, LNP_B_REDUCE_BIAS, b->rows);
    job.a = b->active;
    if (b->half) job.a_stride /= 2; /* in floats: it is only fetched ahead */
    job.fill = lnp_block_responses;
    job.fill16 = lnp_block_responses16;
    job.out = b->y;
    job.finish = lnp_block_residual;
    job.context = b;
    lnp_multiply_rows(lnp_gemm_of(b->node), &job, b->scratch, &b->g->team);
}

static void lnp_block_forward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    const lnp_depthwise_geometry depthwise = lnp_block_geometry(lnp_in(node));
    size_t first;
    for (first = 0; first < g->run.n; first += lnp_block_samples(node)) {
        lnp_block b = lnp_block_begin(node, first);
        lnp_depthwise_forward(&g->depthwise, &g->kernels, b.depthwise, b.mean, b.rstd, b.x,
                              lnp_parameter_of(node, LNP_B_DEPTHWISE)->packed[LNP_FORWARD],
                              lnp_parameter_values(node, LNP_B_DEPTHWISE_BIAS), b.samples,
                              &depthwise, lnp_block_norm_epsilon, &g->team);
        lnp_block_expand(&b, 1);
        lnp_block_grn_statistics(&b);
        lnp_block_reduce(&b);
    }
}

/* --- backward ---------------------------------------------------------------------------------- */

/* Each step below takes whole chunks of rows through while they are in the cache. A thread gets about the
 * same rows in every step, as in the forward pass (few rows are dealt otherwise, to be dealt evenly): what
 * it reads, it has mostly written itself, which matters most where two cores share no cache. Only the
 * weights' gradients need everybody's rows. */

static int lnp_block_is_scaled(const lnp_block *b)
{
    size_t i;
    for (i = 0; i < b->samples; i++)
        if (b->scales[i] < 1.0f || b->scales[i] > 1.0f) return 1;
    return 0;
}

/* The place of a chunk in sums of all chunks, set to zero. */
static float *lnp_chunk_sums(float *sums, lnp_chunk chunk, size_t columns)
{
    float *place = sums + chunk.index * columns;
    memset(place, 0, columns * sizeof(float));
    return place;
}

static void lnp_block_add_sums(const lnp_block *b, int parameter, const float *sums, size_t columns)
{
    lnp_add_chunks(b->g, lnp_parameter_gradient(b->node, parameter), sums,
                   b->samples * lnp_chunk_count(b->pixels), columns);
}

/* lnp_visit before W2's input gradient: dz = scale * dy, and the sums for b2. */
static void lnp_block_scale(const void *context, size_t row, size_t rows)
{
    const lnp_block *b = (const lnp_block *)context;
    const size_t at = row * b->c;
    float *sums = lnp_chunk_sums(b->narrow_sums[0], lnp_chunk_at(row, b->pixels), b->c);
    if (b->dz != b->dy)
        b->g->kernels.scale(b->dscaled + at, b->dy + at, b->scales[row / b->pixels], rows * b->c);
    b->g->kernels.column_sum(sums, b->dz + at, b->c, rows, b->c);
}

/* lnp_visit after W2's input gradient: gelu and its slope from the hidden layer, and the sums over pixels
 * that GRN's backward needs. The slope replaces the hidden layer, which is not needed again. */
static void lnp_block_grn_first(const void *context, size_t row, size_t rows)
{
    const lnp_block *b = (const lnp_block *)context;
    const size_t at = row * b->wide;
    const lnp_chunk chunk = lnp_chunk_at(row, b->pixels);
    float *products = lnp_chunk_sums(b->wide_sums[0], chunk, b->wide);
    float *dbeta = lnp_chunk_sums(b->wide_sums[1], chunk, b->wide);
    if (b->half)
        b->half->grn_first(b->active16 + at, b->hidden16 + at, products, dbeta, b->dactive + at,
                           b->wide, rows, b->wide);
    else
        b->g->kernels.grn_backward_first(b->active + at, b->hidden + at, products, dbeta,
                                         b->hidden + at, b->dactive + at, b->wide, rows, b->wide);
}

/* The input gradient of W1 or W2, chunk by chunk of the samples. */
static void lnp_block_input_gradient(const lnp_block *b, int parameter, float *out, const float *a,
                                     lnp_visit begin, lnp_visit end)
{
    lnp_product job = lnp_product_input(b->node, parameter, b->rows);
    job.a = a;
    job.out = out;
    job.begin = begin;
    job.end = end;
    job.context = b;
    job.segment_rows = b->pixels;
    job.chunk_rows = LNP_CHUNK_ROWS;
    lnp_multiply_rows(lnp_gemm_of(b->node), &job, b->scratch, &b->g->team);
}

/* dW of W1 or W2; the fill makes its input anew. */
static void lnp_block_weight_gradient(const lnp_block *b, int parameter, const float *dy,
                                      const float *x, lnp_fill fill)
{
    lnp_gradient_product job = lnp_product_weight(b->node, parameter, b->rows);
    job.dy = dy;
    job.x = x;
    if (b->half && x == b->active) job.x_stride /= 2; /* in floats: it is only fetched ahead */
    job.x_fill = fill;
    job.x_fill_context = b;
    lnp_multiply_gradient(lnp_gemm_of(b->node), &job, b->scratch, &b->g->team);
}

/* Gradients of GRN's parameters, and what its backward multiplies and adds. */
static void lnp_block_grn_coefficients(const lnp_block *b)
{
    const size_t chunks = lnp_chunk_count(b->pixels);
    size_t i;
    for (i = 0; i < b->samples; i++) {
        const size_t at = i * b->wide;
        lnp_chunk_totals(b->totals + at, b->wide_sums[0] + i * chunks * b->wide, chunks, b->wide);
        lnp_grn_coefficients(b->coefficient + at, b->factor + at,
                             lnp_parameter_gradient(b->node, LNP_B_GAMMA), b->totals + at,
                             b->norm + at, lnp_parameter_values(b->node, LNP_B_GAMMA), b->wide);
    }
    lnp_block_add_sums(b, LNP_B_BETA, b->wide_sums[1], b->wide);
}

/* Through W2 and the sums of GRN: gradients of W2, b2, gamma, beta; leaves the gradient of GRN's output
 * in b->dactive. */
static void lnp_block_backward_reduce(const lnp_block *b)
{
    if (b->g->options.recompute) lnp_block_expand(b, 0);
    lnp_block_input_gradient(b, LNP_B_REDUCE, b->dactive, b->dz, lnp_block_scale,
                             lnp_block_grn_first);
    lnp_block_add_sums(b, LNP_B_REDUCE_BIAS, b->narrow_sums[0], b->c);
    lnp_block_grn_coefficients(b);
    lnp_block_weight_gradient(b, LNP_B_REDUCE, b->dz, b->active, lnp_block_responses);
}

/* lnp_visit before W1's input gradient: the gradient of the hidden layer, in place of that of GRN's
 * output, and the sums for b1. */
static void lnp_block_grn_second(const void *context, size_t row, size_t rows)
{
    const lnp_block *b = (const lnp_block *)context;
    const size_t at = row * b->wide, k = row / b->pixels * b->wide;
    float *sums = lnp_chunk_sums(b->wide_sums[0], lnp_chunk_at(row, b->pixels), b->wide);
    if (b->half)
        b->half->grn_second(b->dactive + at, sums, b->active16 + at, b->hidden16 + at,
                            b->factor + k, b->coefficient + k, b->wide, rows, b->wide);
    else
        b->g->kernels.grn_backward_second(b->dactive + at, sums, b->dactive + at, b->active + at,
                                          b->hidden + at, b->factor + k, b->coefficient + k,
                                          b->wide, rows, b->wide);
}

/* lnp_visit after W1's input gradient: through the norm, in place. */
static void lnp_block_norm_backward(const void *context, size_t row, size_t rows)
{
    const lnp_block *b = (const lnp_block *)context;
    const size_t at = row * b->c;
    const lnp_chunk chunk = lnp_chunk_at(row, b->pixels);
    b->g->kernels.layer_norm_backward(
        b->dnarrow + at, lnp_chunk_sums(b->narrow_sums[0], chunk, b->c),
        lnp_chunk_sums(b->narrow_sums[1], chunk, b->c), b->dnarrow + at, b->depthwise + at,
        b->mean + row, b->rstd + row, lnp_parameter_values(b->node, LNP_B_NORM), rows, b->c);
}

/* Through GRN, GELU, W1 and the norm: leaves the gradient of the depthwise output in b->dnarrow. */
static void lnp_block_backward_expand(const lnp_block *b)
{
    lnp_block_input_gradient(b, LNP_B_EXPAND, b->dnarrow, b->dactive, lnp_block_grn_second,
                             lnp_block_norm_backward);
    lnp_block_add_sums(b, LNP_B_EXPAND_BIAS, b->wide_sums[0], b->wide);
    lnp_block_add_sums(b, LNP_B_NORM, b->narrow_sums[0], b->c);
    lnp_block_add_sums(b, LNP_B_NORM_BIAS, b->narrow_sums[1], b->c);
    lnp_block_weight_gradient(b, LNP_B_EXPAND, b->dactive, b->depthwise, lnp_block_normalized);
}

/* Through the depthwise convolution, and the residual past all of it. */
static void lnp_block_backward_depthwise(const lnp_block *b, const lnp_activation *x, float *dx)
{
    const lnp_depthwise_geometry depthwise = lnp_block_geometry(x);
    lensnet_graph *g = b->g;
    lnp_depthwise_weight_gradient(&g->depthwise, &g->kernels,
                                  lnp_parameter_gradient(b->node, LNP_B_DEPTHWISE),
                                  lnp_parameter_gradient(b->node, LNP_B_DEPTHWISE_BIAS), b->dnarrow,
                                  b->x, b->samples, &depthwise, b->bands, &g->team);
    if (dx)
        lnp_depthwise_input_gradient(
            &g->depthwise, &g->kernels, dx, b->dy, b->dnarrow,
            lnp_parameter_of(b->node, LNP_B_DEPTHWISE)->packed[LNP_BACKWARD], b->samples,
            &depthwise, &g->team);
}

static void lnp_block_backward(const lensnet_node *node)
{
    lensnet_graph *g = node->graph;
    float *dx = lnp_input_gradient(node, 0);
    size_t first;
    for (first = 0; first < g->run.n; first += lnp_block_samples(node)) {
        lnp_block b = lnp_block_begin(node, first);
        const size_t at = first * b.pixels * b.c;
        b.dy = lnp_output_gradient(node) + at;
        b.dz = lnp_block_is_scaled(&b) ? b.dscaled : b.dy;
        lnp_block_backward_reduce(&b);
        lnp_block_backward_expand(&b);
        lnp_block_backward_depthwise(&b, lnp_in(node), dx ? dx + at : NULL);
    }
}

/* --- recording --------------------------------------------------------------------------------- */

static lensnet_result lnp_block_shape(lensnet_node *node, lensnet_error *error)
{
    const size_t c = lnp_in(node)->c;
    const int back = 1;
    lensnet_result result = lnp_drop_path_shape(node, error);
    if (!result) result = lnp_use_depthwise(node, LNP_B_DEPTHWISE, 7, 1, error);
    if (!result) result = lensnet_node_expect(node, LNP_B_DEPTHWISE_BIAS, c, error);
    if (!result) result = lensnet_node_expect(node, LNP_B_NORM, c, error);
    if (!result) result = lensnet_node_expect(node, LNP_B_NORM_BIAS, c, error);
    if (!result) result = lnp_use_matrix(node, LNP_B_EXPAND, 1, back, error);
    if (!result) result = lensnet_node_expect(node, LNP_B_EXPAND_BIAS, 4 * c, error);
    if (!result) result = lensnet_node_expect(node, LNP_B_GAMMA, 4 * c, error);
    if (!result) result = lensnet_node_expect(node, LNP_B_BETA, 4 * c, error);
    if (!result) result = lnp_use_matrix(node, LNP_B_REDUCE, 1, back, error);
    if (!result) result = lensnet_node_expect(node, LNP_B_REDUCE_BIAS, c, error);
    return result;
}

static double lnp_block_macs(const lensnet_node *node)
{
    double c = (double)lnp_in(node)->c;
    return (double)lnp_pixels(lnp_in(node)) * (49 * c + 8 * c * c);
}

static const lensnet_operator lnp_convnext_block = {
    "ConvNeXt V2 block", /* inputs, weights, of these required, bytes of options, flags: */
    1, LNP_BLOCK_PARAMETERS, LNP_BLOCK_PARAMETERS, sizeof(lnp_drop), LENSNET_READS_INPUT,
    /* shape, plan, forward, backward, macs, begin: */
    lnp_block_shape, lnp_block_plan, lnp_block_forward, lnp_block_backward, lnp_block_macs, NULL};

/* The fused block. `parameters` in the order of the enum above. */
static lensnet_tensor lnp_record_block(lensnet_graph *g, lensnet_tensor x,
                                       const lensnet_parameter *parameters, float rate)
{
    const lnp_drop drop = lnp_drop_next(g, rate);
    return lensnet_record(g, &lnp_convnext_block, &x, parameters, &drop);
}
/* =================================================================================================
 * >>safetensors  The format: numbers, text, JSON, reading and writing an archive.
 * A file is hostile: every size is checked against the file before it is used, the table is all
 * that an archive allocates, and a file that is written appears entirely or not at all.
 * ============================================================================================== */

/* --- numbers of 16 bits ----------------------------------------------------------------------- */

static float lnp_bfloat_to_float(uint16_t bfloat) { return lnp_bits_float((uint32_t)bfloat << 16); }

/* To nearest, ties to even; a NaN keeps what fits of its payload and stays a NaN. */
static uint16_t lnp_float_to_bfloat(float value)
{
    uint32_t bits = lnp_float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        uint32_t high = bits >> 16;
        return (uint16_t)((high & 0x7fu) ? high : high | 0x40u);
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* IEEE 754 binary16. Integers only, so that the host's flush-to-zero does not reach subnormals. */
static float lnp_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = half >> 10 & 0x1fu;
    uint32_t mantissa = half & 0x3ffu;
    if (exponent == 0x1f) return lnp_bits_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        if (mantissa == 0) return lnp_bits_float(sign);
        for (exponent = 1; !(mantissa & 0x400u); exponent--) mantissa <<= 1;
        mantissa &= 0x3ffu;
    }
    return lnp_bits_float(sign | (exponent + 112) << 23 | mantissa << 13); /* modulo 2^32 */
}

static uint32_t lnp_shift_to_even(uint32_t value, uint32_t shift)
{
    uint32_t half = 1u << (shift - 1);
    return (value + half - 1 + (value >> shift & 1u)) >> shift;
}

/* To nearest, ties to even; beyond 65504 infinite; a NaN keeps what fits of its payload. */
static uint16_t lnp_float_to_half(float value)
{
    uint32_t bits = lnp_float_bits(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t exponent = bits >> 23 & 0xffu;
    uint32_t mantissa = bits & 0x7fffffu;
    if (exponent == 0xff && mantissa) {
        uint32_t payload = mantissa >> 13;
        return (uint16_t)(sign | 0x7c00u | (payload ? payload : 0x200u));
    }
    if (exponent >= 143) return (uint16_t)(sign | 0x7c00u); /* 2^16 and more */
    if (exponent < 102) return (uint16_t)sign;              /* less than half the smallest */
    if (exponent < 113)                                     /* subnormal: no hidden bit */
        return (uint16_t)(sign | lnp_shift_to_even(mantissa | 0x800000u, 126 - exponent));
    /* a carry out of the mantissa rightly runs into the exponent */
    return (uint16_t)(sign | lnp_shift_to_even((exponent - 112) << 23 | mantissa, 13));
}

/* --- little-endian bytes ---------------------------------------------------------------------- */

static uint32_t lnp_load16(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

static uint32_t lnp_load32(const unsigned char *bytes)
{
    return lnp_load16(bytes) | lnp_load16(bytes + 2) << 16;
}

static uint64_t lnp_load64(const unsigned char *bytes)
{
    return (uint64_t)lnp_load32(bytes) | (uint64_t)lnp_load32(bytes + 4) << 32;
}

static void lnp_store16(unsigned char *bytes, uint32_t value)
{
    bytes[0] = (unsigned char)(value & 0xffu);
    bytes[1] = (unsigned char)(value >> 8 & 0xffu);
}

static void lnp_store32(unsigned char *bytes, uint32_t value)
{
    lnp_store16(bytes, value);
    lnp_store16(bytes + 2, value >> 16);
}

static void lnp_store64(unsigned char *bytes, uint64_t value)
{
    lnp_store32(bytes, (uint32_t)(value & 0xffffffffu));
    lnp_store32(bytes + 4, (uint32_t)(value >> 32));
}

/* --- types ------------------------------------------------------------------------------------ */

typedef struct lnp_type_row {
    const char *name;
    unsigned bits;
    int readable; /* as float32 */
} lnp_type_row;

static const lnp_type_row lnp_types[LENSNET_DTYPE_COUNT] = {
    {"BOOL", 8, 1},    {"F4", 4, 0},          {"F6_E2M3", 6, 0},     {"F6_E3M2", 6, 0},
    {"U8", 8, 1},      {"I8", 8, 1},          {"F8_E5M2", 8, 0},     {"F8_E4M3", 8, 0},
    {"F8_E8M0", 8, 0}, {"F8_E4M3FNUZ", 8, 0}, {"F8_E5M2FNUZ", 8, 0}, {"I16", 16, 1},
    {"U16", 16, 1},    {"F16", 16, 1},        {"BF16", 16, 1},       {"I32", 32, 1},
    {"U32", 32, 1},    {"F32", 32, 1},        {"C64", 64, 0},        {"F64", 64, 1},
    {"I64", 64, 1},    {"U64", 64, 1}};

const char *lensnet_dtype_text(lensnet_dtype dtype)
{
    return (unsigned)dtype < LENSNET_DTYPE_COUNT ? lnp_types[dtype].name : "unknown type";
}

static int lnp_type_find(lensnet_dtype *type, const char *name)
{
    int i;
    for (i = 0; i < (int)LENSNET_DTYPE_COUNT; i++) {
        if (strcmp(lnp_types[i].name, name) == 0) {
            *type = (lensnet_dtype)i;
            return 1;
        }
    }
    return 0;
}

static float lnp_double_at(const unsigned char *bytes)
{
    uint64_t bits = lnp_load64(bytes);
    double value;
    memcpy(&value, &bits, sizeof value);
    return (float)value;
}

/* `count` stored numbers to float32. Four-byte types may be converted in place. */
static void lnp_to_float(float *values, const unsigned char *in, size_t count, lensnet_dtype type)
{
    size_t i;
    switch (type) {
    case LENSNET_DTYPE_BOOL:
        for (i = 0; i < count; i++) values[i] = in[i] ? 1.0f : 0.0f;
        break;
    case LENSNET_DTYPE_U8:
        for (i = 0; i < count; i++) values[i] = (float)in[i];
        break;
    case LENSNET_DTYPE_I8:
        for (i = 0; i < count; i++) values[i] = (float)(int8_t)in[i];
        break;
    case LENSNET_DTYPE_I16:
        for (i = 0; i < count; i++) values[i] = (float)(int16_t)lnp_load16(in + 2 * i);
        break;
    case LENSNET_DTYPE_U16:
        for (i = 0; i < count; i++) values[i] = (float)lnp_load16(in + 2 * i);
        break;
    case LENSNET_DTYPE_F16:
        for (i = 0; i < count; i++) values[i] = lnp_half_to_float((uint16_t)lnp_load16(in + 2 * i));
        break;
    case LENSNET_DTYPE_BF16:
        for (i = 0; i < count; i++)
            values[i] = lnp_bfloat_to_float((uint16_t)lnp_load16(in + 2 * i));
        break;
    case LENSNET_DTYPE_I32:
        for (i = 0; i < count; i++) values[i] = (float)(int32_t)lnp_load32(in + 4 * i);
        break;
    case LENSNET_DTYPE_U32:
        for (i = 0; i < count; i++) values[i] = (float)lnp_load32(in + 4 * i);
        break;
    case LENSNET_DTYPE_F32:
        for (i = 0; i < count; i++) values[i] = lnp_bits_float(lnp_load32(in + 4 * i));
        break;
    case LENSNET_DTYPE_F64:
        for (i = 0; i < count; i++) values[i] = lnp_double_at(in + 8 * i);
        break;
    case LENSNET_DTYPE_I64:
        for (i = 0; i < count; i++) values[i] = (float)(int64_t)lnp_load64(in + 8 * i);
        break;
    case LENSNET_DTYPE_U64:
        for (i = 0; i < count; i++) values[i] = (float)lnp_load64(in + 8 * i);
        break;
    default: break; /* not readable: the caller has refused it */
    }
}

/* `count` float32 numbers to F32, F16 or BF16. Returns how many were converted: less than `count`
 * when the next one is finite but would become infinite. */
static size_t lnp_from_float(unsigned char *out, const float *values, size_t count,
                             lensnet_dtype type)
{
    uint32_t infinite = type == LENSNET_DTYPE_F16 ? 0x7c00u : 0x7f80u;
    size_t i;
    if (type == LENSNET_DTYPE_F32) {
        for (i = 0; i < count; i++) lnp_store32(out + 4 * i, lnp_float_bits(values[i]));
        return count;
    }
    for (i = 0; i < count; i++) {
        int finite = (lnp_float_bits(values[i]) & 0x7f800000u) != 0x7f800000u;
        uint32_t bits = type == LENSNET_DTYPE_F16 ? lnp_float_to_half(values[i])
                                                  : lnp_float_to_bfloat(values[i]);
        if (finite && (bits & 0x7fffu) == infinite) return i;
        lnp_store16(out + 2 * i, bits);
    }
    return count;
}

/* --- text ------------------------------------------------------------------------------------- */

/* A name from a file, made fit for an error sentence: short, and without control characters. */
typedef struct lnp_quoted {
    char text[100];
} lnp_quoted;

static const char *lnp_quote(lnp_quoted *quoted, const char *name)
{
    size_t i;
    for (i = 0; name[i] && i < sizeof quoted->text - 1; i++) {
        unsigned char c = (unsigned char)name[i];
        quoted->text[i] = c < 32 || c == 127 ? '?' : name[i];
    }
    quoted->text[i] = 0;
    return quoted->text;
}

/* Length in bytes of the UTF-8 character at `text`; 0 if it is none (RFC 3629: no overlong forms,
 * no surrogates, nothing beyond U+10FFFF). */
static size_t lnp_utf8_length(const unsigned char *text, size_t left)
{
    unsigned c = text[0];
    unsigned low = 0x80, high = 0xbf;
    size_t length = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    size_t i;
    if (length > left) return 0;
    if (c == 0xe0) low = 0xa0;
    if (c == 0xed) high = 0x9f;
    if (c == 0xf0) low = 0x90;
    if (c == 0xf4) high = 0x8f;
    for (i = 1; i < length; i++) {
        if (text[i] < low || text[i] > high) return 0;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

static int lnp_utf8_valid(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        size_t step = lnp_utf8_length((const unsigned char *)text + at, length - at);
        if (!step) return 0;
        at += step;
    }
    return 1;
}

static char *lnp_utf8_put(char *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    if (code < 0x800) {
        *out++ = (char)(0xc0 | code >> 6);
    } else {
        if (code < 0x10000) {
            *out++ = (char)(0xe0 | code >> 12);
        } else {
            *out++ = (char)(0xf0 | code >> 18);
            *out++ = (char)(0x80 | (code >> 12 & 0x3f));
        }
        *out++ = (char)(0x80 | (code >> 6 & 0x3f));
    }
    *out++ = (char)(0x80 | (code & 0x3f));
    return out;
}

/* A text in the making, always ended by a zero; `failed` stays set once there was no room. */
typedef struct lnp_text {
    const lensnet_host *host; /* NULL: `text` is the caller's, of `capacity` bytes */
    char *text;
    size_t length, capacity;
    int failed;
} lnp_text;

/* A text that grows; to be released. */
static void lnp_text_begin(lnp_text *text, const lensnet_host *host)
{
    memset(text, 0, sizeof *text);
    text->host = host;
}

/* A text in a buffer of fixed size. */
static lnp_text lnp_text_in(char *buffer, size_t capacity)
{
    lnp_text text;
    memset(&text, 0, sizeof text);
    text.text = buffer;
    text.capacity = capacity;
    buffer[0] = 0;
    return text;
}

static void lnp_text_release(lnp_text *text)
{
    if (text->host) lnp_release(text->host, text->text, text->capacity);
}

static void lnp_text_char(lnp_text *text, char c)
{
    size_t needed = text->length + 1; /* and the zero behind it */
    if (text->failed) return;
    text->failed = text->host ? !lnp_grow(text->host, (void **)&text->text,
                                          text->capacity ? needed : 0, &text->capacity, sizeof c)
                              : needed >= text->capacity;
    if (text->failed) return;
    text->text[text->length++] = c;
    text->text[text->length] = 0;
}

static void lnp_text_put(lnp_text *text, const char *more)
{
    while (*more) lnp_text_char(text, *more++);
}

static void lnp_text_number(lnp_text *text, uint64_t number)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    lnp_text_put(text, digits);
}

/* A JSON string, quoted and escaped as the reference writer does: UTF-8 stays as it is. */
static void lnp_text_quoted(lnp_text *text, const char *string)
{
    static const char plain[] = "\"\\\b\f\n\r\t";
    static const char escaped[] = "\"\\bfnrt";
    lnp_text_char(text, '"');
    for (; *string; string++) {
        const char *special = strchr(plain, *string);
        if (special) {
            lnp_text_char(text, '\\');
            lnp_text_char(text, escaped[special - plain]);
        } else if ((unsigned char)*string < 32) {
            char code[8];
            snprintf(code, sizeof code, "\\u%04x", (unsigned)(unsigned char)*string);
            lnp_text_put(text, code);
        } else {
            lnp_text_char(text, *string);
        }
    }
    lnp_text_char(text, '"');
}

static int lnp_is_digit(char c) { return c >= '0' && c <= '9'; }

/* A number's decimal digits with a point, whatever the host's locale (whose point may have several
 * bytes) and rounding mode are: "%.*g". */
static void lnp_number_text(char *text, size_t capacity, int precision, double number)
{
    const uint64_t mode = lnp_mode_enter();
    char local[400]; /* more than "%g" writes at any precision used */
    const char *from;
    char *to = text;
    snprintf(local, sizeof local, "%.*g", precision, number);
    lnp_mode_leave(mode);
    for (from = local; *from && to + 1 < text + capacity; from++)
        if (lnp_is_digit(*from) || *from == '-' || *from == '+' || *from == 'e')
            *to++ = *from;
        else if (to == text || to[-1] != '.')
            *to++ = '.';
    *to = 0;
}

/* The number that all of `text` is, in the digits that lnp_number_text writes; 0 if it is none. */
static int lnp_number_parse(const char *text, double *number)
{
    char local[80], point[16], *end;
    size_t length = 0, points;
    uint64_t mode;
    snprintf(point, sizeof point, "%.1f", 0.5); /* "0.5": what stands between the digits */
    points = strlen(point) - 2;
    for (; *text && length + points + 1 < sizeof local; text++) {
        if (!lnp_is_digit(*text) && !strchr("+-.eE", *text)) return 0;
        if (*text == '.') {
            memcpy(local + length, point + 1, points);
            length += points;
        } else {
            local[length++] = *text;
        }
    }
    local[length] = 0;
    mode = lnp_mode_enter();
    *number = strtod(local, &end);
    lnp_mode_leave(mode);
    return !*text && length && !*end;
}

static void lnp_swap(unsigned char *a, unsigned char *b, size_t size)
{
    size_t i;
    for (i = 0; i < size; i++) {
        unsigned char kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

static void lnp_sift(unsigned char *items, size_t root, size_t count, size_t size,
                     int (*compare)(const void *, const void *))
{
    for (;;) {
        size_t child = 2 * root + 1;
        if (child >= count) return;
        if (child + 1 < count && compare(items + child * size, items + (child + 1) * size) < 0)
            child++;
        if (compare(items + root * size, items + child * size) >= 0) return;
        lnp_swap(items + root * size, items + child * size, size);
        root = child;
    }
}

/* Heap sort in place: no memory, no bad case that a file could choose. */
static void lnp_sort(void *array, size_t count, size_t size,
                     int (*compare)(const void *, const void *))
{
    unsigned char *items = (unsigned char *)array;
    size_t i;
    for (i = count / 2; i > 0; i--) lnp_sift(items, i - 1, count, size, compare);
    for (i = count; i > 1; i--) {
        lnp_swap(items, items + (i - 1) * size, size);
        lnp_sift(items, 0, i - 1, size, compare);
    }
}

/* --- JSON ------------------------------------------------------------------------------------- */

#define LNP_JSON_DEPTH 32

/* A position in a text that the reader may change: strings are decoded where they stand and end in
 * a zero there. The first problem stays; after it nothing is read any more, so that callers check
 * once, at the end of what they read. */
typedef struct lnp_json {
    char *text; /* ends in a zero */
    size_t length, at;
    int depth;
    const char *problem; /* NULL, or what was wrong at `at` */
} lnp_json;

static void lnp_json_fail(lnp_json *json, const char *problem)
{
    if (!json->problem) json->problem = problem;
}

static char lnp_json_peek(lnp_json *json)
{
    while (json->at < json->length && strchr(" \t\r\n", json->text[json->at]) &&
           json->text[json->at])
        json->at++;
    return json->at < json->length && !json->problem ? json->text[json->at] : '\0';
}

static int lnp_json_take(lnp_json *json, char wanted)
{
    if (lnp_json_peek(json) != wanted || json->problem) return 0;
    json->at++;
    return 1;
}

static void lnp_json_begin(lnp_json *json, char bracket)
{
    if (!lnp_json_take(json, bracket))
        lnp_json_fail(json, bracket == '{' ? "expected an object" : "expected an array");
    if (++json->depth > LNP_JSON_DEPTH) lnp_json_fail(json, "nested too deeply");
}

/* 1 before each member, with the comma behind the one before it taken; 0 at the closing bracket, or
 * when there is a problem. */
static int lnp_json_more(lnp_json *json, char bracket, size_t *count)
{
    if (lnp_json_take(json, bracket)) {
        json->depth--;
        return 0;
    }
    if (*count && !lnp_json_take(json, ',')) lnp_json_fail(json, "expected a comma or the end");
    ++*count;
    return !json->problem;
}

/* The hexadecimal digits of `text`, at most eight; returns what follows them. */
static const char *lnp_hex_number(const char *text, uint32_t *number)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *digit;
    int i;
    *number = 0;
    for (i = 0; i < 8 && *text && (digit = strchr(digits, *text)) != NULL; i++, text++)
        *number = *number << 4 | (uint32_t)((digit - digits) & 15);
    return text;
}

static uint32_t lnp_json_hex(lnp_json *json)
{
    char digits[5];
    uint32_t value;
    memset(digits, 0, sizeof digits);
    memcpy(digits, json->text + json->at, lnp_min(4, json->length - json->at));
    if (lnp_hex_number(digits, &value) != digits + 4) {
        lnp_json_fail(json, "expected four hexadecimal digits");
        return 0;
    }
    json->at += 4;
    return value;
}

static uint32_t lnp_json_unicode(lnp_json *json)
{
    uint32_t code = lnp_json_hex(json);
    uint32_t low;
    if (code == 0) lnp_json_fail(json, "a string with a zero character");
    if (code < 0xd800 || code > 0xdfff) return code;
    if (code > 0xdbff || json->length - json->at < 2 || json->text[json->at] != '\\' ||
        json->text[json->at + 1] != 'u') {
        lnp_json_fail(json, "half a surrogate pair");
        return 0;
    }
    json->at += 2;
    low = lnp_json_hex(json);
    if (low < 0xdc00 || low > 0xdfff) lnp_json_fail(json, "half a surrogate pair");
    return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
}

static char *lnp_json_escape(lnp_json *json, char *out)
{
    static const char letters[] = "\"\\/bfnrt";
    static const char meanings[] = "\"\\/\b\f\n\r\t";
    char c = json->at < json->length ? json->text[json->at] : '\0';
    const char *letter = c ? strchr(letters, c) : NULL;
    if (letter) {
        json->at++;
        *out = meanings[letter - letters];
        return out + 1;
    }
    if (c == 'u') {
        uint32_t code;
        json->at++;
        code = lnp_json_unicode(json);
        return json->problem ? out : lnp_utf8_put(out, code);
    }
    lnp_json_fail(json, "an unknown escape in a string");
    return out;
}

/* The decoded string, in the text itself; NULL when there is a problem. Never longer than it was.
 *  */
static char *lnp_json_string(lnp_json *json)
{
    char *start, *out;
    if (!lnp_json_take(json, '"')) {
        lnp_json_fail(json, "expected a string");
        return NULL;
    }
    start = out = json->text + json->at;
    while (json->at < json->length && !json->problem) {
        char c = json->text[json->at++];
        if (c == '"') {
            *out = 0;
            return start;
        }
        if ((unsigned char)c < 32) {
            json->at--;
            lnp_json_fail(json, "a control character in a string");
        } else if (c == '\\') {
            out = lnp_json_escape(json, out);
        } else {
            *out++ = c;
        }
    }
    lnp_json_fail(json, "a string without an end");
    return NULL;
}

static char *lnp_json_key(lnp_json *json)
{
    char *key = lnp_json_string(json);
    if (key && !lnp_json_take(json, ':')) lnp_json_fail(json, "expected a colon");
    return json->problem ? NULL : key;
}

/* A non-negative integer: no sign, fraction, exponent or leading zero. */
static uint64_t lnp_json_integer(lnp_json *json)
{
    uint64_t value = 0;
    size_t digits = 0;
    (void)lnp_json_peek(json);
    while (json->at < json->length && lnp_is_digit(json->text[json->at]) && !json->problem) {
        uint64_t digit = (uint64_t)(json->text[json->at] - '0');
        if ((digits && !value) || value > (UINT64_MAX - digit) / 10) {
            lnp_json_fail(json,
                          value ? "an integer beyond 64 bits" : "an integer with a leading 0");
            return 0;
        }
        value = value * 10 + digit;
        digits++;
        json->at++;
    }
    if (!digits || (json->at < json->length && strchr(".eE", json->text[json->at])))
        lnp_json_fail(json, "expected a non-negative integer");
    return value;
}

static size_t lnp_json_digits(lnp_json *json)
{
    size_t start = json->at;
    while (json->at < json->length && lnp_is_digit(json->text[json->at])) json->at++;
    return json->at - start;
}

static int lnp_json_accept(lnp_json *json, const char *characters)
{
    char c = json->at < json->length ? json->text[json->at] : '\0';
    if (!c || !strchr(characters, c)) return 0;
    json->at++;
    return 1;
}

static void lnp_json_skip_number(lnp_json *json)
{
    int good;
    (void)lnp_json_accept(json, "-");
    good = lnp_json_accept(json, "0") || lnp_json_digits(json);
    if (good && lnp_json_accept(json, ".")) good = lnp_json_digits(json) > 0;
    if (good && lnp_json_accept(json, "eE")) {
        (void)lnp_json_accept(json, "+-");
        good = lnp_json_digits(json) > 0;
    }
    if (!good) lnp_json_fail(json, "expected a value");
}

static void lnp_json_skip_word(lnp_json *json, const char *word)
{
    size_t length = strlen(word);
    if (json->length - json->at < length || memcmp(json->text + json->at, word, length) != 0) {
        lnp_json_fail(json, "expected a value");
        return;
    }
    json->at += length;
}

/* Reads over any value; its depth is bounded by lnp_json_begin. */
static void lnp_json_skip(lnp_json *json)
{
    char c = lnp_json_peek(json);
    size_t count = 0;
    if (json->problem) return;
    if (c == '{') {
        lnp_json_begin(json, '{');
        while (lnp_json_more(json, '}', &count)) {
            (void)lnp_json_key(json);
            lnp_json_skip(json);
        }
    } else if (c == '[') {
        lnp_json_begin(json, '[');
        while (lnp_json_more(json, ']', &count)) lnp_json_skip(json);
    } else if (c == '"') {
        (void)lnp_json_string(json);
    } else if (c == 't') {
        lnp_json_skip_word(json, "true");
    } else if (c == 'f') {
        lnp_json_skip_word(json, "false");
    } else if (c == 'n') {
        lnp_json_skip_word(json, "null");
    } else {
        lnp_json_skip_number(json);
    }
}

static void lnp_json_end(lnp_json *json)
{
    (void)lnp_json_peek(json);
    if (json->at < json->length) lnp_json_fail(json, "something behind the end");
}

/* --- checksums -------------------------------------------------------------------------------- */

/* CRC-32 as in zip and zlib, eight bytes at a time. */
typedef struct lnp_crc {
    uint32_t table[8][256];
} lnp_crc;

static void lnp_crc_begin(lnp_crc *crc)
{
    uint32_t i, k;
    for (i = 0; i < 256; i++) {
        uint32_t value = i;
        for (k = 0; k < 8; k++) value = value & 1 ? 0xedb88320u ^ value >> 1 : value >> 1;
        crc->table[0][i] = value;
    }
    for (k = 1; k < 8; k++)
        for (i = 0; i < 256; i++) {
            uint32_t before = crc->table[k - 1][i];
            crc->table[k][i] = before >> 8 ^ crc->table[0][before & 0xffu];
        }
}

/* The sum of what it was of, and `count` bytes more; begin with 0. Without a table: 0. */
static uint32_t lnp_crc_add(const lnp_crc *crc, uint32_t sum, const void *bytes, size_t count)
{
    const unsigned char *b = (const unsigned char *)bytes;
    if (!crc) return 0;
    for (sum = ~sum; count >= 8; b += 8, count -= 8) {
        uint32_t low = sum ^ lnp_load32(b), high = lnp_load32(b + 4);
        sum = crc->table[7][low & 0xffu] ^ crc->table[6][low >> 8 & 0xffu] ^
              crc->table[5][low >> 16 & 0xffu] ^ crc->table[4][low >> 24] ^
              crc->table[3][high & 0xffu] ^ crc->table[2][high >> 8 & 0xffu] ^
              crc->table[1][high >> 16 & 0xffu] ^ crc->table[0][high >> 24];
    }
    for (; count > 0; b++, count--) sum = crc->table[0][(sum ^ *b) & 0xffu] ^ sum >> 8;
    return ~sum;
}

static uint32_t lnp_crc_text(const lnp_crc *crc, uint32_t sum, const char *text)
{
    return lnp_crc_add(crc, sum, text, strlen(text) + 1);
}

/* The sum of a table counts its lines in any order, but for the line of checksums. */
static uint32_t lnp_crc_pairs(const lnp_crc *crc, const lensnet_archive_pair *pairs, size_t count)
{
    uint32_t sum = 0;
    size_t i;
    for (i = 0; i < count; i++)
        if (strcmp(pairs[i].key, LENSNET_ARCHIVE_CHECKSUMS) != 0)
            sum += lnp_crc_text(crc, lnp_crc_text(crc, 0, pairs[i].key), pairs[i].value);
    return sum;
}

static uint32_t lnp_crc_entry(const lnp_crc *crc, uint32_t sum, const char *name,
                              lensnet_dtype dtype, const uint64_t *shape, int rank)
{
    unsigned char bytes[8];
    int i;
    sum = lnp_crc_text(crc, sum, name);
    sum = lnp_crc_text(crc, sum, lensnet_dtype_text(dtype));
    for (i = 0; i < rank; i++) {
        lnp_store64(bytes, shape[i]);
        sum = lnp_crc_add(crc, sum, bytes, sizeof bytes);
    }
    return sum;
}

/* --- archive: reading ------------------------------------------------------------------------- */

#define LNP_HEADER_MAX   ((uint64_t)100000000) /* the format's own bound */
#define LNP_CHUNK        16384                 /* bytes converted at a time, on the stack */
#define LNP_METADATA_KEY "__metadata__"

/* One file of an archive. Offsets count through all of them, as if one stood behind the other. */
typedef struct lnp_part {
    void *file;                  /* or NULL, and then: */
    const unsigned char *memory; /* borrowed */
    uint64_t base, size;
    char *text; /* the header, its strings decoded in place, and behind it the path */
    size_t text_bytes, header_length;
} lnp_part;

struct lensnet_archive {
    lensnet_host host;
    const char *path; /* for sentences: of the part that is being opened, then of the first */
    lnp_part *parts;
    size_t part_count, part_capacity;
    lensnet_archive_entry *entries; /* in file order */
    size_t count, capacity;
    const lensnet_archive_entry **by_name;
    lensnet_archive_pair *pairs;
    size_t pair_count, pair_capacity;
    lnp_crc *crc;   /* NULL: no checksums */
    uint32_t *sums; /* of the table, then of each tensor */
};

static lensnet_result lnp_archive_read(void *bytes, const lensnet_archive *archive, uint64_t offset,
                                       size_t count, lensnet_error *error)
{
    const lnp_part *part = archive->parts;
    if (!count) return LENSNET_OK;
    while (offset - part->base >= part->size) part++;
    offset -= part->base;
    if (!part->file) {
        memcpy(bytes, part->memory + (size_t)offset, count);
        return LENSNET_OK;
    }
    if (archive->host.file_read(part->file, offset, bytes, count, archive->host.user) != 0)
        return lnp_fail(
            error, LENSNET_ERROR_FILE,
            "cannot read %llu bytes at byte %llu of '%s': the device failed, or the file "
            "was changed while it was open",
            (unsigned long long)count, (unsigned long long)offset, archive->path);
    return LENSNET_OK;
}

static lensnet_result lnp_no_memory(lensnet_error *error, const char *what, const char *path)
{
    lnp_quoted quoted;
    return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for %s of '%s'", what,
                    lnp_quote(&quoted, path));
}

static lensnet_result lnp_archive_json_error(const lensnet_archive *archive, const lnp_json *json,
                                             lensnet_error *error)
{
    return lnp_fail(error, LENSNET_ERROR_FORMAT,
                    "'%s' is not a valid safetensors file: %s at byte %llu of its header; was the "
                    "file copied completely?",
                    archive->path, json->problem, (unsigned long long)json->at);
}

static lensnet_result lnp_archive_entry_error(const lensnet_archive *archive, const char *name,
                                              const char *problem, lensnet_error *error)
{
    lnp_quoted quoted;
    return lnp_fail(error, LENSNET_ERROR_FORMAT,
                    "'%s' is not a valid safetensors file: tensor '%s' %s", archive->path,
                    lnp_quote(&quoted, name), problem);
}

static lensnet_result lnp_archive_add_pair(lensnet_archive *archive, const char *key,
                                           const char *value, lensnet_error *error)
{
    if (!lnp_grow(&archive->host, (void **)&archive->pairs, archive->pair_count,
                  &archive->pair_capacity, sizeof *archive->pairs))
        return lnp_no_memory(error, "the metadata", archive->path);
    archive->pairs[archive->pair_count].key = key;
    archive->pairs[archive->pair_count].value = value;
    archive->pair_count++;
    return LENSNET_OK;
}

static lensnet_result lnp_archive_parse_metadata(lensnet_archive *archive, lnp_json *json,
                                                 lensnet_error *error)
{
    lensnet_result result = LENSNET_OK;
    size_t count = 0;
    lnp_json_begin(json, '{');
    while (!result && lnp_json_more(json, '}', &count)) {
        const char *key = lnp_json_key(json);
        const char *value = lnp_json_string(json);
        if (json->problem) break;
        result = lnp_archive_add_pair(archive, key, value, error);
    }
    return result;
}

enum { LNP_FIELD_TYPE = 1, LNP_FIELD_SHAPE = 2, LNP_FIELD_OFFSETS = 4, LNP_FIELD_ALL = 7 };

static int lnp_archive_field(const char *key)
{
    if (strcmp(key, "dtype") == 0) return LNP_FIELD_TYPE;
    if (strcmp(key, "shape") == 0) return LNP_FIELD_SHAPE;
    if (strcmp(key, "data_offsets") == 0) return LNP_FIELD_OFFSETS;
    return 0;
}

static lensnet_result lnp_archive_parse_type(lensnet_archive_entry *entry,
                                             const lensnet_archive *archive, lnp_json *json,
                                             lensnet_error *error)
{
    const char *name = lnp_json_string(json);
    lnp_quoted type, tensor;
    if (!name || lnp_type_find(&entry->dtype, name)) return LENSNET_OK;
    return lnp_fail(error, LENSNET_ERROR_FORMAT,
                    "'%s' is not a valid safetensors file: tensor '%s' has the type '%s'; expected "
                    "one like F32, F16, BF16 or I64",
                    archive->path, lnp_quote(&tensor, entry->name), lnp_quote(&type, name));
}

static lensnet_result lnp_archive_parse_shape(lensnet_archive_entry *entry,
                                              const lensnet_archive *archive, lnp_json *json,
                                              lensnet_error *error)
{
    lnp_quoted quoted;
    size_t count = 0;
    lnp_json_begin(json, '[');
    while (lnp_json_more(json, ']', &count)) {
        uint64_t size = lnp_json_integer(json);
        if (count > LENSNET_ARCHIVE_RANK)
            return lnp_fail(error, LENSNET_ERROR_UNSUPPORTED,
                            "tensor '%s' of '%s' has more than %d dimensions",
                            lnp_quote(&quoted, entry->name), archive->path, LENSNET_ARCHIVE_RANK);
        entry->shape[count - 1] = size;
    }
    entry->rank = (int)count;
    return LENSNET_OK;
}

/* Offsets count from the end of the header; `bytes` holds the end until the table is checked. */
static void lnp_archive_parse_offsets(lensnet_archive_entry *entry, lnp_json *json)
{
    size_t count = 0;
    lnp_json_begin(json, '[');
    while (lnp_json_more(json, ']', &count)) {
        uint64_t value = lnp_json_integer(json);
        if (count == 1) entry->offset = value;
        if (count == 2) entry->bytes = value;
        if (count == 3) lnp_json_fail(json, "more than two data offsets");
    }
    if (count < 2) lnp_json_fail(json, "fewer than two data offsets");
}

static lensnet_result lnp_archive_parse_entry(lensnet_archive_entry *entry,
                                              const lensnet_archive *archive, lnp_json *json,
                                              lensnet_error *error)
{
    lensnet_result result = LENSNET_OK;
    size_t count = 0;
    int seen = 0;
    lnp_json_begin(json, '{');
    while (!result && lnp_json_more(json, '}', &count)) {
        const char *key = lnp_json_key(json);
        int field = key ? lnp_archive_field(key) : 0;
        if (field & seen) lnp_json_fail(json, "a field of a tensor stands twice");
        seen |= field;
        if (field == LNP_FIELD_TYPE)
            result = lnp_archive_parse_type(entry, archive, json, error);
        else if (field == LNP_FIELD_SHAPE)
            result = lnp_archive_parse_shape(entry, archive, json, error);
        else if (field == LNP_FIELD_OFFSETS)
            lnp_archive_parse_offsets(entry, json);
        else
            lnp_json_skip(json);
    }
    if (!result && !json->problem && seen != LNP_FIELD_ALL)
        return lnp_archive_entry_error(archive, entry->name, "lacks a dtype, shape or data_offsets",
                                       error);
    return result;
}

static lensnet_result lnp_archive_add_entry(lensnet_archive *archive, const char *name,
                                            lnp_json *json, lensnet_error *error)
{
    lensnet_archive_entry *entry;
    if (!lnp_grow(&archive->host, (void **)&archive->entries, archive->count, &archive->capacity,
                  sizeof *archive->entries))
        return lnp_no_memory(error, "the table", archive->path);
    entry = archive->entries + archive->count;
    memset(entry, 0, sizeof *entry);
    entry->name = name;
    archive->count++;
    return lnp_archive_parse_entry(entry, archive, json, error);
}

/* Only the first part's metadata count: those of shards say the same. */
static lensnet_result lnp_archive_parse(lensnet_archive *archive, const lnp_part *part,
                                        lensnet_error *error)
{
    lensnet_result result = LENSNET_OK;
    lnp_json json;
    size_t count = 0;
    int metadata_seen = 0;
    memset(&json, 0, sizeof json);
    json.text = part->text;
    json.length = part->header_length;
    lnp_json_begin(&json, '{');
    while (!result && lnp_json_more(&json, '}', &count)) {
        const char *name = lnp_json_key(&json);
        if (!name) break;
        if (strcmp(name, LNP_METADATA_KEY) != 0) {
            result = lnp_archive_add_entry(archive, name, &json, error);
            continue;
        }
        if (metadata_seen++) lnp_json_fail(&json, "a second \"__metadata__\"");
        if (part == archive->parts)
            result = lnp_archive_parse_metadata(archive, &json, error);
        else
            lnp_json_skip(&json);
    }
    lnp_json_end(&json);
    if (!result && json.problem) return lnp_archive_json_error(archive, &json, error);
    return result;
}

/* Turns the offsets of an entry, counted from the end of its part's header, into place and size, and checks that the
 * tensor begins where the one before it ended and holds as many bytes as its type and shape say. */
static lensnet_result lnp_archive_check_entry(lensnet_archive_entry *entry, const lnp_part *part,
                                              uint64_t *end, const lensnet_archive *archive,
                                              lensnet_error *error)
{
    uint64_t bits = lnp_types[entry->dtype].bits, header = 8 + (uint64_t)part->header_length;
    uint64_t last = entry->bytes;
    int i;
    if (entry->offset != *end || last < entry->offset)
        return lnp_archive_entry_error(archive, entry->name,
                                       "does not begin where the tensor before it ends, or ends "
                                       "before it begins",
                                       error);
    entry->count = 1;
    for (i = 0; i < entry->rank; i++) {
        if (entry->shape[i] && entry->count > UINT64_MAX / entry->shape[i])
            return lnp_archive_entry_error(archive, entry->name, "has an impossible shape", error);
        entry->count *= entry->shape[i];
    }
    if (entry->count > UINT64_MAX / bits || entry->count * bits % 8 != 0 ||
        entry->count * bits / 8 != last - entry->offset)
        return lnp_archive_entry_error(archive, entry->name,
                                       "has a size in bytes other than its type and shape ask for",
                                       error);
    *end = last;
    entry->bytes = last - entry->offset;
    if (last > part->size - header)
        return lnp_archive_entry_error(
            archive, entry->name,
            "ends behind the end of the file; is it cut off? Download or copy it "
            "again",
            error);
    entry->offset += part->base + header;
    return LENSNET_OK;
}

static int lnp_entry_by_place(const void *a, const void *b)
{
    const lensnet_archive_entry *x = (const lensnet_archive_entry *)a;
    const lensnet_archive_entry *y = (const lensnet_archive_entry *)b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name); /* tensors without bytes share a place */
}

static int lnp_entry_by_name(const void *a, const void *b)
{
    const lensnet_archive_entry *const *x = (const lensnet_archive_entry *const *)a;
    const lensnet_archive_entry *const *y = (const lensnet_archive_entry *const *)b;
    return strcmp((*x)->name, (*y)->name);
}

static int lnp_pair_by_key(const void *a, const void *b)
{
    return strcmp(((const lensnet_archive_pair *)a)->key, ((const lensnet_archive_pair *)b)->key);
}

/* The tensors of one part, from number `first` on, into file order. */
static lensnet_result lnp_archive_check_places(lensnet_archive *archive, const lnp_part *part,
                                               size_t first, lensnet_error *error)
{
    uint64_t end = 0;
    size_t i;
    if (archive->count > first)
        lnp_sort(archive->entries + first, archive->count - first, sizeof *archive->entries,
                 lnp_entry_by_place);
    for (i = first; i < archive->count; i++) {
        lensnet_archive_entry *entry = archive->entries + i;
        lensnet_result result;
        if (i > first && !strcmp(entry->name, entry[-1].name))
            return lnp_archive_entry_error(archive, entry->name, "stands twice", error);
        result = lnp_archive_check_entry(entry, part, &end, archive, error);
        if (result) return result;
    }
    end += 8 + (uint64_t)part->header_length;
    if (end != part->size)
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "'%s' is not a valid safetensors file: its table describes %llu bytes, but "
                        "it has %llu",
                        archive->path, (unsigned long long)end, (unsigned long long)part->size);
    return LENSNET_OK;
}

/* Brings an index of the table, and the metadata, into the order of names. */
static lensnet_result lnp_archive_index(lensnet_archive *archive, lensnet_error *error)
{
    size_t i;
    archive->by_name = (const lensnet_archive_entry **)lnp_allocate(
        &archive->host, archive->count * sizeof *archive->by_name);
    if (!archive->by_name) return lnp_no_memory(error, "the table", archive->path);
    for (i = 0; i < archive->count; i++) archive->by_name[i] = archive->entries + i;
    lnp_sort(archive->by_name, archive->count, sizeof *archive->by_name, lnp_entry_by_name);
    for (i = 1; i < archive->count; i++) {
        if (strcmp(archive->by_name[i - 1]->name, archive->by_name[i]->name) == 0)
            return lnp_archive_entry_error(archive, archive->by_name[i]->name, "stands twice",
                                           error);
    }
    if (archive->pair_count)
        lnp_sort(archive->pairs, archive->pair_count, sizeof *archive->pairs, lnp_pair_by_key);
    for (i = 1; i < archive->pair_count; i++) {
        if (strcmp(archive->pairs[i - 1].key, archive->pairs[i].key) == 0) {
            lnp_quoted quoted;
            return lnp_fail(error, LENSNET_ERROR_FORMAT,
                            "'%s' is not a valid safetensors file: its metadata have '%s' twice",
                            archive->path, lnp_quote(&quoted, archive->pairs[i].key));
        }
    }
    return LENSNET_OK;
}

static void lnp_part_close(const lensnet_host *host, lnp_part *part)
{
    if (part->file) host->file_close(part->file, 0, host->user);
    lnp_release(host, part->text, part->text_bytes);
}
/* What an everyday wrong file is, by its first bytes, and what to do; NULL: not known. */
static const char *lnp_wrong_file(const unsigned char *bytes, size_t count)
{
    static const struct {
        const char *begin;
        size_t length;
        const char *what;
    } known[] = {
        {"version https://git-lfs", 23,
         "it is a pointer of Git LFS, not the file itself; run `git lfs pull`, or download it"},
        {"<", 1,
         "it is a web page (HTML or XML), not the file; download it anew, from the link that "
         "ends in /resolve/main/model.safetensors"},
        {"PK\3\4", 4,
         "it is a zip, as PyTorch's .pth, .pt and .bin are; tools/convert.c makes a safetensors "
         "file of these (classify, evaluate and train read them themselves)"},
        {"\x80\x02", 2,
         "it is a Python pickle, as PyTorch's older .pth and .bin are; tools/convert.c makes a "
         "safetensors file of it (classify, evaluate and train read it themselves)"},
        {"\x89HDF", 4, "it is an HDF5 file (Keras); save the weights from PyTorch as safetensors"},
        {"GGUF", 4, "it is a GGUF file, not safetensors"},
        {"\x93NUMPY", 6, "it is a NumPy array; are the weights and the image exchanged?"},
        {"SIMPLE  =", 9, "it is a FITS file; are the weights and the image exchanged?"},
        {"\x89PNG", 4, "it is a PNG image, not weights"},
        {"\xff\xd8\xff", 3, "it is a JPEG image, not weights"},
        {"\x80\3}", 3, "it is a Python pickle; save state_dict() with torch.save"},
        {"\x80\3c", 3, "it is a Python pickle; save state_dict() with torch.save"},
        {"\x80\4\x95", 3, "it is a Python pickle; save state_dict() with torch.save"},
        {"\x80\5\x95", 3, "it is a Python pickle; save state_dict() with torch.save"},
        {"\x1f\x8b", 2, "it is packed with gzip; unpack it first (gunzip)"},
        {"BZh", 3, "it is packed with bzip2; unpack it first (bunzip2)"},
        {"\xfd\x37zXZ", 5, "it is packed with xz; unpack it first (unxz)"},
        {"\x28\xb5\x2f\xfd", 4, "it is packed with zstd; unpack it first (unzstd)"},
        {"7z\xbc\xaf", 4, "it is packed with 7z; unpack it first (7z x)"},
        {"Rar!", 4, "it is packed with rar; unpack it first (unrar x)"},
        {"%PDF", 4, "it is a PDF document, not weights"},
        {"SQLite format 3", 15, "it is an SQLite data base, not weights"},
        {"\x7f"
         "ELF",
         4, "it is a program or library, not weights"},
        {"{", 1,
         "it is JSON text (a configuration?), not weights; give the folder it lies in, or the "
         ".safetensors file"},
        {"#", 1, "it is text or a script, not weights"}};
    size_t i;
    for (i = 0; i < sizeof known / sizeof *known; i++)
        if (count >= known[i].length && !memcmp(bytes, known[i].begin, known[i].length))
            return known[i].what;
    if (count >= 262 && !memcmp(bytes + 257, "ustar", 5))
        return "it is a tar archive; unpack it first (tar -xf)";
    if (count >= 8 && !memcmp(bytes + 4, "TFL3", 4)) return "it is a TensorFlow Lite model";
    if (count >= 4 && bytes[0] == 8 && bytes[1] < 32 && bytes[2] == 0x12)
        return "it is an ONNX model; save the weights from PyTorch as safetensors";
    for (i = 0; i < 8; i++)
        if (count < 8 || !(bytes[i] == '\n' || bytes[i] == '\r' || bytes[i] == '\t' ||
                           (bytes[i] >= ' ' && bytes[i] < 127)))
            return NULL;
    return "it is text, not weights";
}

static lensnet_result lnp_not_safetensors(lensnet_archive *archive, const lnp_part *part,
                                          const char *otherwise, lensnet_error *error)
{
    unsigned char bytes[264];
    size_t count = (size_t)(part->size < sizeof bytes ? part->size : sizeof bytes);
    const char *what;
    lensnet_result result = lnp_archive_read(bytes, archive, part->base, count, error);
    if (result) return result;
    what = count ? lnp_wrong_file(bytes, count) : "it is empty";
    return lnp_fail(error, LENSNET_ERROR_FORMAT, "'%.200s' is not a safetensors file: %s",
                    archive->path, what ? what : otherwise);
}

/* The header's length, checked against the file before anything is allocated by it. */
static lensnet_result lnp_part_header_length(lensnet_archive *archive, lnp_part *part,
                                             lensnet_error *error)
{
    unsigned char bytes[8];
    char reason[160];
    uint64_t length;
    lensnet_result result;
    snprintf(reason, sizeof reason, "it has %d bytes, expected at least 8", (int)(part->size & 7));
    if (part->size < 8) return lnp_not_safetensors(archive, part, reason, error);
    result = lnp_archive_read(bytes, archive, part->base, sizeof bytes, error);
    if (result) return result;
    length = lnp_load64(bytes);
    snprintf(reason, sizeof reason,
             "its first 8 bytes ask for a header of %llu bytes, but %llu follow (and at most "
             "100000000 are allowed); is it cut off?",
             (unsigned long long)length, (unsigned long long)(part->size - 8));
    if (length > LNP_HEADER_MAX || length > part->size - 8)
        return lnp_not_safetensors(archive, part, reason, error);
    part->header_length = (size_t)length;
    return LENSNET_OK;
}

static lensnet_result lnp_part_load_header(lensnet_archive *archive, lnp_part *part,
                                           const char *path, lensnet_error *error)
{
    size_t path_bytes = strlen(path) + 1;
    lensnet_result result = lnp_part_header_length(archive, part, error);
    if (result) return result;
    part->text_bytes = part->header_length + 1 + path_bytes;
    part->text = (char *)lnp_allocate(&archive->host, part->text_bytes);
    if (!part->text) return lnp_no_memory(error, "the header", path);
    part->text[part->header_length] = 0;
    memcpy(part->text + part->header_length + 1, path, path_bytes);
    archive->path = part->text + part->header_length + 1;
    result = lnp_archive_read(part->text, archive, part->base + 8, part->header_length, error);
    if (result) return result;
    if (part->text[0] != '{')
        return lnp_not_safetensors(archive, part, "its header does not begin with '{'", error);
    if (!lnp_utf8_valid(part->text, part->header_length))
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "'%s' is not a valid safetensors file: its header is not UTF-8", path);
    return LENSNET_OK;
}

/* Room for one more part, empty. */
static lnp_part *lnp_archive_add_part(lensnet_archive *archive, const char *path,
                                      lensnet_error *error)
{
    lnp_part *part;
    if (!lnp_grow(&archive->host, (void **)&archive->parts, archive->part_count,
                  &archive->part_capacity, sizeof *archive->parts)) {
        lnp_no_memory(error, "the table", path);
        return NULL;
    }
    part = &archive->parts[archive->part_count++];
    memset(part, 0, sizeof *part);
    if (part != archive->parts) part->base = part[-1].base + part[-1].size;
    archive->path = path;
    return part;
}

static lensnet_result lnp_part_read(lensnet_archive *archive, lnp_part *part, const char *path,
                                    lensnet_error *error)
{
    const size_t first = archive->count;
    lensnet_result result;
    if (part->size > UINT64_MAX / 2 - part->base)
        return lnp_fail(error, LENSNET_ERROR_FORMAT, "'%s': its parts are impossibly large", path);
    result = lnp_part_load_header(archive, part, path, error);
    if (!result) result = lnp_archive_parse(archive, part, error);
    return result ? result : lnp_archive_check_places(archive, part, first, error);
}

static lensnet_result lnp_part_open(lensnet_archive *archive, lnp_part *part, const char *path,
                                    lensnet_error *error)
{
    const lensnet_host *host = &archive->host;
    errno = 0;
    part->file = host->file_open(path, 0, host->user);
    if (!part->file) {
        const char *problem = lnp_file_problem(host, path);
        return lnp_fail(error, LENSNET_ERROR_FILE, "cannot read '%.380s': %s%s", path,
                        problem ? problem : "the host's hook failed",
                        errno == EISDIR ? ", and no model.safetensors lies in it" : "");
    }
    part->size = host->file_size(part->file, host->user);
    if (part->size == LNP_SIZE_UNKNOWN)
        return lnp_fail(error, LENSNET_ERROR_FILE,
                        "cannot tell the size of '%s'; expected a file on a disk, not a pipe",
                        path);
    return LENSNET_OK;
}

/* --- archive: checksums ------------------------------------------------------------------------ */

/* Reads the line of checksums and checks the table's. */
static lensnet_result lnp_archive_load_sums(lensnet_archive *archive, lensnet_error *error)
{
    const char *line = lensnet_archive_metadata(archive, LENSNET_ARCHIVE_CHECKSUMS);
    uint32_t sum;
    size_t i;
    if (!line || archive->part_count != 1) return LENSNET_OK;
    archive->sums =
        (uint32_t *)lnp_allocate(&archive->host, (archive->count + 1) * sizeof *archive->sums);
    archive->crc = (lnp_crc *)lnp_allocate(&archive->host, sizeof *archive->crc);
    if (!archive->sums || !archive->crc)
        return lnp_no_memory(error, "the checksums", archive->path);
    lnp_crc_begin(archive->crc);
    for (i = 0; i <= archive->count; i++) {
        const char *end = lnp_hex_number(line, &archive->sums[i]);
        if (end != line + 8 || (*end && *end != ' ')) break;
        line = *end ? end + 1 : end;
    }
    sum = lnp_crc_pairs(archive->crc, archive->pairs, archive->pair_count);
    if (i <= archive->count || *line)
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "'%s' is damaged: its line of checksums does not fit its tensors",
                        archive->path);
    for (i = 0; i < archive->count; i++) {
        const lensnet_archive_entry *entry = &archive->entries[i];
        sum =
            lnp_crc_entry(archive->crc, sum, entry->name, entry->dtype, entry->shape, entry->rank);
    }
    if (sum == archive->sums[0]) return LENSNET_OK;
    return lnp_fail(error, LENSNET_ERROR_FORMAT,
                    "'%s' is damaged: its table (names, shapes, metadata) is not the one it was "
                    "saved with; copy the file anew, or use an older one",
                    archive->path);
}

/* --- archive: shards, {"weight_map": {tensor: file, ...}} -------------------------------------- */

#define LNP_INDEX_MAX ((uint64_t)16 << 20)

/* The name of a file beside the index, and nothing else. */
static int lnp_plain_name(const char *name)
{
    return *name && *name != '.' && !strpbrk(name, "/\\:");
}

/* Opens the shard `name` beside `index`, unless it is open already. */
static lensnet_result lnp_archive_open_shard(lensnet_archive *archive, const char *index,
                                             const char *name, lensnet_error *error)
{
    const char *slash = strrchr(index, '/');
    const size_t folder = slash ? (size_t)(slash - index) + 1 : 0;
    lensnet_result result = LENSNET_OK;
    lnp_text path;
    lnp_part *part;
    size_t i;
    if (!lnp_plain_name(name))
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "'%.200s' names a shard that is no file beside it", index);
    for (i = 0; i < archive->part_count; i++)
        if (!strcmp(archive->parts[i].text + archive->parts[i].header_length + 1 + folder, name))
            return LENSNET_OK;
    lnp_text_begin(&path, &archive->host);
    for (i = 0; i < folder; i++) lnp_text_char(&path, index[i]);
    lnp_text_put(&path, name);
    part = path.failed ? NULL : lnp_archive_add_part(archive, path.text, error);
    if (!part) result = lnp_no_memory(error, "a path", index);
    if (!result) result = lnp_part_open(archive, part, path.text, error);
    if (!result) result = lnp_part_read(archive, part, path.text, error);
    lnp_text_release(&path);
    return result;
}

static lensnet_result lnp_archive_open_map(lensnet_archive *archive, const char *path,
                                           lnp_json *json, lensnet_error *error)
{
    lensnet_result result = LENSNET_OK;
    size_t count = 0;
    lnp_json_begin(json, '{');
    while (!result && lnp_json_more(json, '}', &count)) {
        (void)lnp_json_key(json);
        if (!json->problem) {
            const char *name = lnp_json_string(json);
            if (name) result = lnp_archive_open_shard(archive, path, name, error);
        }
    }
    return result;
}

/* `part` is the index itself, with its file open; it makes room for the shards. */
static lensnet_result lnp_archive_open_index(lensnet_archive *archive, const char *path,
                                             lensnet_error *error)
{
    lnp_part index = archive->parts[--archive->part_count];
    lensnet_result result = LENSNET_OK;
    lnp_json json;
    size_t count = 0;
    memset(&json, 0, sizeof json);
    json.length = (size_t)index.size;
    json.text = (char *)lnp_allocate(&archive->host, json.length + 1);
    if (!json.text) {
        lnp_part_close(&archive->host, &index);
        return lnp_no_memory(error, "the index", path);
    }
    json.text[json.length] = 0;
    if (archive->host.file_read(index.file, 0, json.text, json.length, archive->host.user))
        lnp_json_fail(&json, "it cannot be read");
    if (!lnp_utf8_valid(json.text, json.length)) lnp_json_fail(&json, "it is not UTF-8");
    lnp_json_begin(&json, '{');
    while (!result && lnp_json_more(&json, '}', &count)) {
        const char *key = lnp_json_key(&json);
        if (key && !strcmp(key, "weight_map"))
            result = lnp_archive_open_map(archive, path, &json, error);
        else
            lnp_json_skip(&json);
    }
    lnp_json_end(&json);
    if (!result && json.problem)
        result = lnp_fail(error, LENSNET_ERROR_FORMAT, "'%.200s' is not valid JSON: %s at byte %zu",
                          path, json.problem, json.at);
    if (!result && !archive->part_count)
        result = lnp_fail(error, LENSNET_ERROR_FORMAT, "'%.200s' is not a safetensors file: %s",
                          path, lnp_wrong_file((const unsigned char *)"{", 1));
    lnp_release(&archive->host, json.text, json.length + 1);
    lnp_part_close(&archive->host, &index);
    return result;
}

/* --- archive: opening -------------------------------------------------------------------------- */

static lensnet_result lnp_archive_begin(lensnet_archive **archive, const lensnet_host *host,
                                        const char *path, lensnet_error *error)
{
    lensnet_host copy = lnp_host_copy(host);
    *archive = (lensnet_archive *)lnp_allocate(&copy, sizeof(lensnet_archive));
    if (!*archive) return lnp_no_memory(error, "the table", path);
    memset(*archive, 0, sizeof **archive);
    (*archive)->host = copy;
    return LENSNET_OK;
}

/* The rest of opening, once the parts are read; closes the archive again when something failed. */
static lensnet_result lnp_archive_finish(lensnet_archive **archive, lensnet_result result,
                                         lensnet_error *error)
{
    lensnet_archive *a = *archive;
    if (!result) {
        a->path = a->parts[0].text + a->parts[0].header_length + 1;
        result = lnp_archive_index(a, error);
    }
    if (!result) result = lnp_archive_load_sums(a, error);
    if (!result) return LENSNET_OK;
    lensnet_archive_close(a);
    *archive = NULL;
    return result;
}

/* The archive or the index at `path`. *missing: nothing could be opened there. */
static lensnet_result lnp_archive_open_file(lensnet_archive *archive, const char *path,
                                            int *missing, lensnet_error *error)
{
    lnp_part *part = lnp_archive_add_part(archive, path, error);
    unsigned char bytes[8];
    lensnet_result result;
    *missing = 0;
    if (!part) return LENSNET_ERROR_MEMORY;
    result = lnp_part_open(archive, part, path, error);
    *missing = !part->file;
    if (*missing) archive->part_count--;
    if (result) return result;
    if (part->size >= sizeof bytes && part->size <= LNP_INDEX_MAX) {
        result = lnp_archive_read(bytes, archive, 0, sizeof bytes, error);
        if (result) return result;
        if (bytes[0] == '{' && lnp_load64(bytes) > part->size)
            return lnp_archive_open_index(archive, path, error);
    }
    return lnp_part_read(archive, part, path, error);
}

/* What may stand in a Hugging Face folder. */
static lensnet_result lnp_archive_open_folder(lensnet_archive *archive, const char *folder,
                                              int *missing, lensnet_error *error)
{
    static const char *const names[] = {"/model.safetensors", "/model.safetensors.index.json"};
    lensnet_result result = LENSNET_OK;
    size_t i;
    for (i = 0, *missing = 1; i < 2 && *missing; i++) {
        lnp_text path;
        lnp_text_begin(&path, &archive->host);
        lnp_text_put(&path, folder);
        lnp_text_put(&path, names[i]);
        result = path.failed ? lnp_no_memory(error, "a path", folder)
                             : lnp_archive_open_file(archive, path.text, missing, error);
        if (path.failed) *missing = 0;
        lnp_text_release(&path);
    }
    return result;
}

lensnet_result lensnet_archive_open(lensnet_archive **archive, const char *path,
                                    const lensnet_host *host, lensnet_error *error)
{
    lensnet_error inside;
    lensnet_result result;
    int missing, inside_missing;
    if (!archive || !path)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "lensnet_archive_open needs an archive and a path, found NULL");
    result = lnp_archive_begin(archive, host, path, error);
    if (result) return result;
    result = lnp_archive_open_file(*archive, path, &missing, error);
    if (result && missing) {
        lensnet_result second = lnp_archive_open_folder(*archive, path, &inside_missing, &inside);
        if (!inside_missing) result = second;
        if (result && !inside_missing) lnp_fail(error, result, "%s", inside.text);
    }
    return lnp_archive_finish(archive, result, error);
}

lensnet_result lensnet_archive_open_memory(lensnet_archive **archive, const void *bytes,
                                           size_t size, const lensnet_host *host,
                                           lensnet_error *error)
{
    static const char path[] = "(memory)";
    lensnet_result result;
    lnp_part *part;
    if (!archive || (!bytes && size))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "lensnet_archive_open_memory needs an archive and bytes, found NULL");
    result = lnp_archive_begin(archive, host, path, error);
    if (result) return result;
    part = lnp_archive_add_part(*archive, path, error);
    if (!part) return lnp_archive_finish(archive, LENSNET_ERROR_MEMORY, error);
    part->memory = (const unsigned char *)bytes;
    part->size = size;
    return lnp_archive_finish(archive, lnp_part_read(*archive, part, path, error), error);
}

void lensnet_archive_close(lensnet_archive *archive)
{
    lensnet_host host;
    size_t i;
    if (!archive) return;
    host = archive->host;
    for (i = 0; i < archive->part_count; i++) lnp_part_close(&host, &archive->parts[i]);
    lnp_release(&host, archive->parts, archive->part_capacity * sizeof *archive->parts);
    lnp_release(&host, archive->entries, archive->capacity * sizeof *archive->entries);
    lnp_release(&host, archive->by_name, archive->count * sizeof *archive->by_name);
    lnp_release(&host, archive->pairs, archive->pair_capacity * sizeof *archive->pairs);
    lnp_release(&host, archive->crc, sizeof *archive->crc);
    lnp_release(&host, archive->sums, (archive->count + 1) * sizeof *archive->sums);
    lnp_release(&host, archive, sizeof *archive);
}

size_t lensnet_archive_count(const lensnet_archive *archive) { return archive->count; }

const lensnet_archive_entry *lensnet_archive_at(const lensnet_archive *archive, size_t index)
{
    return index < archive->count ? archive->entries + index : NULL;
}

const lensnet_archive_entry *lensnet_archive_find(const lensnet_archive *archive, const char *name)
{
    size_t low = 0, high = archive->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(archive->by_name[middle]->name, name);
        if (order == 0) return archive->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const lensnet_archive_pair *lensnet_archive_pairs(const lensnet_archive *archive, size_t *count)
{
    *count = archive->pair_count;
    return archive->pairs;
}

const char *lensnet_archive_metadata(const lensnet_archive *archive, const char *key)
{
    size_t low = 0, high = archive->pair_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(archive->pairs[middle].key, key);
        if (order == 0) return archive->pairs[middle].value;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* The checksum of a tensor's bytes as they were saved. */
static lensnet_result lnp_archive_check_sum(const lensnet_archive *archive,
                                            const lensnet_archive_entry *entry, uint32_t sum,
                                            lensnet_error *error)
{
    lnp_quoted quoted;
    if (!archive->crc || archive->sums[entry - archive->entries + 1] == sum) return LENSNET_OK;
    return lnp_fail(
        error, LENSNET_ERROR_FORMAT,
        "'%s' is damaged: the checksum of tensor '%s' is not the one it was saved with; "
        "copy the file anew, or use an older one (or did a program change the numbers "
        "and keep the metadata line " LENSNET_ARCHIVE_CHECKSUMS "?)",
        archive->path, lnp_quote(&quoted, entry->name));
}

/* Types other than four bytes wide pass through a buffer on the stack. */
static lensnet_result lnp_archive_read_chunks(float *values, const lensnet_archive *archive,
                                              const lensnet_archive_entry *entry,
                                              lensnet_error *error)
{
    unsigned char chunk[LNP_CHUNK];
    size_t size = lnp_types[entry->dtype].bits / 8;
    size_t left = (size_t)entry->count;
    uint64_t offset = entry->offset;
    uint32_t sum = 0;
    while (left > 0) {
        size_t count = lnp_min(left, LNP_CHUNK / size);
        lensnet_result result = lnp_archive_read(chunk, archive, offset, count * size, error);
        if (result) return result;
        sum = lnp_crc_add(archive->crc, sum, chunk, count * size);
        lnp_to_float(values, chunk, count, entry->dtype);
        values += count;
        offset += count * size;
        left -= count;
    }
    return lnp_archive_check_sum(archive, entry, sum, error);
}

lensnet_result lensnet_archive_read_float(float *values, const lensnet_archive *archive,
                                          const lensnet_archive_entry *entry, lensnet_error *error)
{
    lensnet_result result;
    uint64_t mode;
    size_t bytes;
    if (!lnp_types[entry->dtype].readable) {
        lnp_quoted quoted;
        return lnp_fail(error, LENSNET_ERROR_UNSUPPORTED,
                        "tensor '%s' of '%s' has the type %s, which cannot be read as float32; "
                        "expected F32, F64, F16, BF16, BOOL or integers",
                        lnp_quote(&quoted, entry->name), archive->path,
                        lensnet_dtype_text(entry->dtype));
    }
    if (entry->count > SIZE_MAX || !lnp_multiply((size_t)entry->count, sizeof(float), &bytes))
        return lnp_no_memory(error, "a tensor", archive->path);
    mode = lnp_mode_enter();
    if (lnp_types[entry->dtype].bits != 32) {
        result = lnp_archive_read_chunks(values, archive, entry, error);
    } else {
        result = lensnet_archive_read_bytes(values, archive, entry, error);
        if (!result) lnp_to_float(values, (unsigned char *)values, bytes / 4, entry->dtype);
    }
    lnp_mode_leave(mode);
    return result;
}

lensnet_result lensnet_archive_read_bytes(void *bytes, const lensnet_archive *archive,
                                          const lensnet_archive_entry *entry, lensnet_error *error)
{
    lensnet_result result;
    uint32_t sum;
    if (entry->bytes > SIZE_MAX) return lnp_no_memory(error, "a tensor", archive->path);
    result = lnp_archive_read(bytes, archive, entry->offset, (size_t)entry->bytes, error);
    if (result) return result;
    sum = lnp_crc_add(archive->crc, 0, bytes, (size_t)entry->bytes);
    return lnp_archive_check_sum(archive, entry, sum, error);
}

/* --- archive: writing ------------------------------------------------------------------------- */

/* Bytes and elements of a tensor to be written; 0 when they overflow. */
static int lnp_tensor_size(size_t *count, size_t *bytes, const lensnet_archive_tensor *tensor)
{
    size_t bits;
    int i;
    *count = 1;
    for (i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] > SIZE_MAX) return 0;
        if (!lnp_multiply(*count, (size_t)tensor->shape[i], count)) return 0;
    }
    if (!lnp_multiply(*count, lnp_types[tensor->dtype].bits, &bits) || bits % 8) return 0;
    *bytes = bits / 8;
    return 1;
}

static const char *lnp_tensor_problem(const lensnet_archive_tensor *tensor)
{
    size_t count, bytes;
    if (!lnp_utf8_valid(tensor->name, strlen(tensor->name))) return "has a name that is not UTF-8";
    if (strcmp(tensor->name, LNP_METADATA_KEY) == 0)
        return "has the name that is kept for metadata";
    if ((unsigned)tensor->dtype >= LENSNET_DTYPE_COUNT) return "has an unknown type";
    if (tensor->rank < 0 || tensor->rank > LENSNET_ARCHIVE_RANK) return "has an impossible rank";
    if (!lnp_tensor_size(&count, &bytes, tensor)) return "has an impossible size";
    if (tensor->values && tensor->bytes) return "has both values and bytes";
    if (!tensor->values && !tensor->bytes && bytes) return "has neither values nor bytes";
    if (tensor->values && tensor->dtype != LENSNET_DTYPE_F32 &&
        tensor->dtype != LENSNET_DTYPE_F16 && tensor->dtype != LENSNET_DTYPE_BF16)
        return "has values to be stored as something else than F32, F16 or BF16";
    return NULL;
}

static lensnet_result lnp_tensor_error(const lensnet_archive_tensor *tensor, const char *problem,
                                       lensnet_error *error)
{
    lnp_quoted quoted;
    return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "cannot save tensor '%s': it %s",
                    lnp_quote(&quoted, tensor->name), problem);
}

static int lnp_tensor_by_name(const void *a, const void *b)
{
    const lensnet_archive_tensor *const *x = (const lensnet_archive_tensor *const *)a;
    const lensnet_archive_tensor *const *y = (const lensnet_archive_tensor *const *)b;
    return strcmp((*x)->name, (*y)->name);
}

/* The reference writer's order: wider types first, so that all numbers stay aligned, then names. */
static int lnp_tensor_by_type(const void *a, const void *b)
{
    const lensnet_archive_tensor *const *x = (const lensnet_archive_tensor *const *)a;
    const lensnet_archive_tensor *const *y = (const lensnet_archive_tensor *const *)b;
    if ((*x)->dtype != (*y)->dtype) return (*x)->dtype > (*y)->dtype ? -1 : 1;
    return lnp_tensor_by_name(a, b);
}

/* Checks what is to be saved and leaves `order` as the file will have it. */
static lensnet_result lnp_archive_order(const lensnet_archive_tensor **order, size_t count,
                                        lensnet_error *error)
{
    size_t i;
    for (i = 0; i < count; i++) {
        const char *problem = lnp_tensor_problem(order[i]);
        if (problem) return lnp_tensor_error(order[i], problem, error);
    }
    lnp_sort(order, count, sizeof *order, lnp_tensor_by_name);
    for (i = 1; i < count; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            return lnp_tensor_error(order[i], "shares its name with another one", error);
    lnp_sort(order, count, sizeof *order, lnp_tensor_by_type);
    return LENSNET_OK;
}

/* The line of checksums, whatever value it was given. */
static int lnp_is_sums(const lensnet_archive_pair *pair)
{
    return !strcmp(pair->key, LENSNET_ARCHIVE_CHECKSUMS);
}

static lensnet_result lnp_archive_check_pairs(const lensnet_archive_pair *pairs, size_t count,
                                              lensnet_error *error)
{
    lnp_quoted quoted;
    size_t i, j;
    for (i = 0; i < count; i++) {
        const char *value = pairs[i].value;
        int good = lnp_utf8_valid(pairs[i].key, strlen(pairs[i].key)) &&
                   (lnp_is_sums(&pairs[i]) || lnp_utf8_valid(value, strlen(value)));
        for (j = 0; j < i; j++) good = good && strcmp(pairs[i].key, pairs[j].key) != 0;
        if (!good)
            return lnp_fail(
                error, LENSNET_ERROR_ARGUMENT,
                "cannot save the metadata line '%s': it is not UTF-8, or its key stands "
                "twice",
                lnp_quote(&quoted, pairs[i].key));
    }
    return LENSNET_OK;
}

static void lnp_header_metadata(lnp_text *header, const lensnet_archive_pair *pairs, size_t count,
                                const char *sums)
{
    size_t i;
    lnp_text_put(header, "\"" LNP_METADATA_KEY "\":{");
    for (i = 0; i < count; i++) {
        if (i) lnp_text_char(header, ',');
        lnp_text_quoted(header, pairs[i].key);
        lnp_text_char(header, ':');
        lnp_text_quoted(header, lnp_is_sums(&pairs[i]) ? sums : pairs[i].value);
    }
    lnp_text_char(header, '}');
}

static void lnp_header_tensor(lnp_text *header, const lensnet_archive_tensor *tensor,
                              uint64_t *offset)
{
    size_t count = 0, bytes = 0;
    int i;
    (void)lnp_tensor_size(&count, &bytes, tensor); /* checked by lnp_tensor_problem */
    lnp_text_quoted(header, tensor->name);
    lnp_text_put(header, ":{\"dtype\":");
    lnp_text_quoted(header, lensnet_dtype_text(tensor->dtype));
    lnp_text_put(header, ",\"shape\":[");
    for (i = 0; i < tensor->rank; i++) {
        if (i) lnp_text_char(header, ',');
        lnp_text_number(header, tensor->shape[i]);
    }
    lnp_text_put(header, "],\"data_offsets\":[");
    lnp_text_number(header, *offset);
    lnp_text_char(header, ',');
    *offset += bytes;
    lnp_text_number(header, *offset);
    lnp_text_put(header, "]}");
}

static void lnp_header_write(lnp_text *header, const lensnet_archive_tensor *const *order,
                             size_t count, const lensnet_archive_pair *pairs, size_t pair_count,
                             const char *sums)
{
    uint64_t offset = 0;
    size_t i;
    lnp_text_char(header, '{');
    if (pair_count) lnp_header_metadata(header, pairs, pair_count, sums);
    for (i = 0; i < count; i++) {
        if (i || pair_count) lnp_text_char(header, ',');
        lnp_header_tensor(header, order[i], &offset);
    }
    lnp_text_char(header, '}');
    while (!header->failed && header->length % 8 != 0) lnp_text_char(header, ' ');
}

/* A file being written: through the hooks, to its end or to its first error; or, with `crc`, only
 * the checksum of what would be written. */
typedef struct lnp_writer {
    const lensnet_host *host;
    const char *path;
    void *file;
    const lnp_crc *crc;
    uint32_t sum;
} lnp_writer;

static lensnet_result lnp_write_error(const lnp_writer *writer, lensnet_error *error)
{
    const char *problem = lnp_file_problem(writer->host, writer->path);
    return lnp_fail(error, LENSNET_ERROR_FILE, "cannot write '%.380s': %s", writer->path,
                    problem ? problem : "the host's hook failed");
}

static lensnet_result lnp_writer_open(lnp_writer *writer, const char *path,
                                      const lensnet_host *host, lensnet_error *error)
{
    memset(writer, 0, sizeof *writer);
    writer->host = host;
    writer->path = path;
    errno = 0;
    writer->file = host->file_open(path, 1, host->user);
    return writer->file ? LENSNET_OK : lnp_write_error(writer, error);
}

static lensnet_result lnp_writer_put(lnp_writer *writer, const void *bytes, size_t count,
                                     lensnet_error *error)
{
    if (writer->crc) {
        writer->sum = lnp_crc_add(writer->crc, writer->sum, bytes, count);
        return LENSNET_OK;
    }
    errno = 0;
    if (!count || writer->host->file_write(writer->file, bytes, count, writer->host->user) == 0)
        return LENSNET_OK;
    return lnp_write_error(writer, error);
}

/* Closes in any case; what was written appears only when `result`, that of the writing, is OK. */
static lensnet_result lnp_writer_close(lnp_writer *writer, lensnet_result result,
                                       lensnet_error *error)
{
    int failed;
    errno = 0;
    failed = writer->host->file_close(writer->file, result == LENSNET_OK, writer->host->user);
    return result || !failed ? result : lnp_write_error(writer, error);
}

static lensnet_result lnp_write_values(lnp_writer *writer, const lensnet_archive_tensor *tensor,
                                       size_t left, lensnet_error *error)
{
    unsigned char chunk[LNP_CHUNK];
    size_t size = lnp_types[tensor->dtype].bits / 8;
    const float *values = tensor->values;
    while (left > 0) {
        size_t count = lnp_min(left, LNP_CHUNK / size);
        size_t done = lnp_from_float(chunk, values, count, tensor->dtype);
        lensnet_result result;
        if (done < count) {
            lnp_quoted quoted;
            return lnp_fail(error, LENSNET_ERROR_NUMBER,
                            "cannot save '%s': the value %g of tensor '%s' is beyond the range of "
                            "%s; save as F32",
                            writer->path, (double)values[done], lnp_quote(&quoted, tensor->name),
                            lensnet_dtype_text(tensor->dtype));
        }
        result = lnp_writer_put(writer, chunk, count * size, error);
        if (result) return result;
        values += count;
        left -= count;
    }
    return LENSNET_OK;
}

static lensnet_result lnp_write_tensor(lnp_writer *writer, const lensnet_archive_tensor *tensor,
                                       lensnet_error *error)
{
    size_t count = 0, bytes = 0;
    (void)lnp_tensor_size(&count, &bytes, tensor);
    return tensor->values ? lnp_write_values(writer, tensor, count, error)
                          : lnp_writer_put(writer, tensor->bytes, bytes, error);
}

static void lnp_text_sum(lnp_text *text, uint32_t sum)
{
    char digits[16];
    snprintf(digits, sizeof digits, "%s%08lx", text->length ? " " : "", (unsigned long)sum);
    lnp_text_put(text, digits);
}

/* The line of checksums: eight hexadecimal digits of the table's, then of each tensor's in file
 * order. */
static lensnet_result lnp_archive_sum(lnp_text *sums, const lnp_crc *crc, const char *path,
                                      const lensnet_archive_tensor *const *order, size_t count,
                                      const lensnet_archive_pair *pairs, size_t pair_count,
                                      lensnet_error *error)
{
    lensnet_result result = LENSNET_OK;
    lnp_writer writer;
    uint32_t table = lnp_crc_pairs(crc, pairs, pair_count);
    size_t i;
    for (i = 0; i < count; i++)
        table = lnp_crc_entry(crc, table, order[i]->name, order[i]->dtype, order[i]->shape,
                              order[i]->rank);
    lnp_text_sum(sums, table);
    memset(&writer, 0, sizeof writer);
    writer.crc = crc;
    writer.path = path;
    for (i = 0; i < count && !result; i++) {
        writer.sum = 0;
        result = lnp_write_tensor(&writer, order[i], error);
        lnp_text_sum(sums, writer.sum);
    }
    return !result && sums->failed ? lnp_no_memory(error, "the checksums", path) : result;
}

static lensnet_result lnp_archive_write(const char *path, const lnp_text *header,
                                        const lensnet_archive_tensor *const *order, size_t count,
                                        lensnet_error *error)
{
    lnp_writer writer;
    unsigned char length[8];
    size_t i;
    lensnet_result result = lnp_writer_open(&writer, path, header->host, error);
    if (result) return result;
    lnp_store64(length, header->length);
    result = lnp_writer_put(&writer, length, sizeof length, error);
    if (!result) result = lnp_writer_put(&writer, header->text, header->length, error);
    for (i = 0; i < count && !result; i++) result = lnp_write_tensor(&writer, order[i], error);
    return lnp_writer_close(&writer, result, error);
}

static lensnet_result lnp_archive_save_header(lnp_text *header, const char *path,
                                              const lensnet_archive_tensor *const *order,
                                              size_t count, const lensnet_archive_pair *pairs,
                                              size_t pair_count, const char *sums,
                                              lensnet_error *error)
{
    lnp_header_write(header, order, count, pairs, pair_count, sums);
    if (header->failed) return lnp_no_memory(error, "the header", path);
    if (header->length > LNP_HEADER_MAX)
        return lnp_fail(error, LENSNET_ERROR_UNSUPPORTED,
                        "cannot save '%s': its table would be longer than 100000000 bytes", path);
    return lnp_archive_write(path, header, order, count, error);
}

static int lnp_wants_sums(const lensnet_archive_pair *pairs, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++)
        if (lnp_is_sums(&pairs[i])) return 1;
    return 0;
}

static lensnet_result lnp_archive_save_ordered(const char *path,
                                               const lensnet_archive_tensor **order, size_t count,
                                               const lensnet_archive_pair *pairs, size_t pair_count,
                                               const lensnet_host *host, lensnet_error *error)
{
    lnp_text header, sums;
    lnp_crc *crc = NULL;
    lensnet_result result = lnp_archive_order(order, count, error);
    if (!result) result = lnp_archive_check_pairs(pairs, pair_count, error);
    if (result) return result;
    lnp_text_begin(&header, host);
    lnp_text_begin(&sums, host);
    if (lnp_wants_sums(pairs, pair_count)) {
        crc = (lnp_crc *)lnp_allocate(host, sizeof *crc);
        if (!crc) return lnp_no_memory(error, "the checksums", path);
        lnp_crc_begin(crc);
        result = lnp_archive_sum(&sums, crc, path, order, count, pairs, pair_count, error);
    }
    if (!result)
        result = lnp_archive_save_header(&header, path, order, count, pairs, pair_count, sums.text,
                                         error);
    lnp_text_release(&header);
    lnp_text_release(&sums);
    lnp_release(host, crc, sizeof *crc);
    return result;
}

lensnet_result lensnet_archive_save(const char *path, const lensnet_archive_tensor *tensors,
                                    size_t count, const lensnet_archive_pair *pairs,
                                    size_t pair_count, const lensnet_host *host,
                                    lensnet_error *error)
{
    lensnet_host copy = lnp_host_copy(host);
    const lensnet_archive_tensor **order;
    lensnet_result result;
    size_t bytes, i;
    if (!path || (!tensors && count) || (!pairs && pair_count))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "lensnet_archive_save needs a path, tensors and pairs, found NULL");
    if (!lnp_multiply(count, sizeof *order, &bytes)) return lnp_no_memory(error, "the table", path);
    order = (const lensnet_archive_tensor **)lnp_allocate(&copy, bytes);
    if (!order) return lnp_no_memory(error, "the table", path);
    for (i = 0; i < count; i++) order[i] = tensors + i;
    result = lnp_archive_save_ordered(path, order, count, pairs, pair_count, &copy, error);
    lnp_release(&copy, order, bytes);
    return result;
}

/* =================================================================================================
 * >>checkpoints  An archive as a ConvNeXt V2: the names of three libraries, whatever stands before
 * them, the sizes of the network. The rooms above use lnp_slot_next, lnp_role_name and
 * lnp_role_shape for the table of parameters, lnp_checkpoint_* to read one in anybody's names.
 * ============================================================================================== */

/* --- names of ConvNeXt V2 --------------------------------------------------------------------- */

/* The meaning of a parameter. Ranges belong together: stem, downsampling, block, tail. */
typedef enum lnp_role {
    LNP_STEM_CONV_WEIGHT,
    LNP_STEM_CONV_BIAS,
    LNP_STEM_NORM_WEIGHT,
    LNP_STEM_NORM_BIAS,
    LNP_DOWN_NORM_WEIGHT,
    LNP_DOWN_NORM_BIAS,
    LNP_DOWN_CONV_WEIGHT,
    LNP_DOWN_CONV_BIAS,
    LNP_BLOCK_DEPTHWISE_WEIGHT,
    LNP_BLOCK_DEPTHWISE_BIAS,
    LNP_BLOCK_NORM_WEIGHT,
    LNP_BLOCK_NORM_BIAS,
    LNP_BLOCK_EXPAND_WEIGHT,
    LNP_BLOCK_EXPAND_BIAS,
    LNP_BLOCK_GRN_WEIGHT,
    LNP_BLOCK_GRN_BIAS,
    LNP_BLOCK_REDUCE_WEIGHT,
    LNP_BLOCK_REDUCE_BIAS,
    LNP_NORM_WEIGHT,
    LNP_NORM_BIAS,
    LNP_HEAD_WEIGHT,
    LNP_HEAD_BIAS,
    LNP_ROLE_COUNT
} lnp_role;

/* Whose names: transformers, the authors (FB), timm, mmpretrain (which was mmclassification). */
typedef enum lnp_dialect {
    LNP_DIALECT_HF,
    LNP_DIALECT_FB,
    LNP_DIALECT_TIMM,
    LNP_DIALECT_MM,
    LNP_DIALECT_COUNT
} lnp_dialect;

/* In names # is the stage, $ the block, + "weight" or "gamma", - "bias" or "beta" (the GRN has been
 * called both). In shapes C is the stage's width, P the width before it, M = 4C, I input channels,
 * K classes, a digit itself. Hugging Face puts "convnextv2." before all but the head, mmpretrain
 * "backbone."; where it has NULL here the name is the authors'. */
typedef struct lnp_role_row {
    const char *shape;
    const char *names[LNP_DIALECT_COUNT];
} lnp_role_row;

/* clang-format off */
static const lnp_role_row lnp_roles[LNP_ROLE_COUNT] = {
    {"CI44", {"embeddings.patch_embeddings.weight",
             "downsample_layers.0.0.weight", "stem.0.weight", NULL}},
    {"C",    {"embeddings.patch_embeddings.bias",
             "downsample_layers.0.0.bias", "stem.0.bias", NULL}},
    {"C",    {"embeddings.layernorm.weight",
             "downsample_layers.0.1.weight", "stem.1.weight", NULL}},
    {"C",    {"embeddings.layernorm.bias",
             "downsample_layers.0.1.bias", "stem.1.bias", NULL}},
    {"P",    {"encoder.stages.#.downsampling_layer.0.weight",
             "downsample_layers.#.0.weight", "stages.#.downsample.0.weight", NULL}},
    {"P",    {"encoder.stages.#.downsampling_layer.0.bias",
             "downsample_layers.#.0.bias", "stages.#.downsample.0.bias", NULL}},
    {"CP22", {"encoder.stages.#.downsampling_layer.1.weight",
             "downsample_layers.#.1.weight", "stages.#.downsample.1.weight", NULL}},
    {"C",    {"encoder.stages.#.downsampling_layer.1.bias",
             "downsample_layers.#.1.bias", "stages.#.downsample.1.bias", NULL}},
    {"C177", {"encoder.stages.#.layers.$.dwconv.weight",
             "stages.#.$.dwconv.weight", "stages.#.blocks.$.conv_dw.weight",
             "stages.#.$.depthwise_conv.weight"}},
    {"C",    {"encoder.stages.#.layers.$.dwconv.bias",
             "stages.#.$.dwconv.bias", "stages.#.blocks.$.conv_dw.bias",
             "stages.#.$.depthwise_conv.bias"}},
    {"C",    {"encoder.stages.#.layers.$.layernorm.weight",
             "stages.#.$.norm.weight", "stages.#.blocks.$.norm.weight", NULL}},
    {"C",    {"encoder.stages.#.layers.$.layernorm.bias",
             "stages.#.$.norm.bias", "stages.#.blocks.$.norm.bias", NULL}},
    {"MC",   {"encoder.stages.#.layers.$.pwconv1.weight",
             "stages.#.$.pwconv1.weight", "stages.#.blocks.$.mlp.fc1.weight",
             "stages.#.$.pointwise_conv1.weight"}},
    {"M",    {"encoder.stages.#.layers.$.pwconv1.bias",
             "stages.#.$.pwconv1.bias", "stages.#.blocks.$.mlp.fc1.bias",
             "stages.#.$.pointwise_conv1.bias"}},
    {"111M", {"encoder.stages.#.layers.$.grn.+",
             "stages.#.$.grn.+", "stages.#.blocks.$.mlp.grn.+", NULL}},
    {"111M", {"encoder.stages.#.layers.$.grn.-",
             "stages.#.$.grn.-", "stages.#.blocks.$.mlp.grn.-", NULL}},
    {"CM",   {"encoder.stages.#.layers.$.pwconv2.weight",
             "stages.#.$.pwconv2.weight", "stages.#.blocks.$.mlp.fc2.weight",
             "stages.#.$.pointwise_conv2.weight"}},
    {"C",    {"encoder.stages.#.layers.$.pwconv2.bias",
             "stages.#.$.pwconv2.bias", "stages.#.blocks.$.mlp.fc2.bias",
             "stages.#.$.pointwise_conv2.bias"}},
    {"C",    {"layernorm.weight",
             "norm.weight", "head.norm.weight", "norm3.weight"}},
    {"C",    {"layernorm.bias",
             "norm.bias", "head.norm.bias", "norm3.bias"}},
    {"KC",   {"classifier.weight",
             "head.weight", "head.fc.weight", "head.fc.weight"}},
    {"K",    {"classifier.bias",
             "head.bias", "head.fc.bias", "head.fc.bias"}}};
/* clang-format on */

#define LNP_HF_BASE       "convnextv2."
#define LNP_MM_BASE       "backbone."
#define LNP_STATE_PREFIX  "lensnet." /* names that no reader of weights minds */
#define LNP_PREFIX        80         /* of a checkpoint's names, and its zero */
#define LNP_NAME_CAPACITY 200 /* the longest prefix, base and pattern with two 20-digit numbers */
#define LNP_NOTES         800
#define LNP_STAGES        4
#define LNP_WIDTH_MAX     ((uint64_t)1 << 20)

/* What names and shapes depend on. */
typedef struct lnp_net {
    size_t depths[LNP_STAGES], widths[LNP_STAGES], channels, classes;
} lnp_net;

/* One parameter of a net: its meaning and where it is. */
typedef struct lnp_slot {
    lnp_role role;
    size_t stage, block;
} lnp_slot;

/* All slots in the order of transformers' own files: start from {LNP_STEM_CONV_WEIGHT, 0, 0} and go
 * on while this returns 1. */
static int lnp_slot_next(lnp_slot *slot, const lnp_net *net)
{
    int last_of_block = slot->role == LNP_BLOCK_REDUCE_BIAS;
    if (slot->role == LNP_HEAD_BIAS) return 0;
    if (slot->role == LNP_STEM_NORM_BIAS) {
        slot->role = LNP_BLOCK_DEPTHWISE_WEIGHT;
    } else if (last_of_block && slot->block + 1 < net->depths[slot->stage]) {
        slot->block++;
        slot->role = LNP_BLOCK_DEPTHWISE_WEIGHT;
    } else if (last_of_block && slot->stage + 1 < LNP_STAGES) {
        slot->block = 0;
        slot->stage++;
        slot->role = LNP_DOWN_NORM_WEIGHT;
    } else {
        if (last_of_block) slot->block = 0;
        slot->role = (lnp_role)(slot->role + 1);
    }
    return 1;
}

static const char *lnp_role_pattern(lnp_role role, lnp_dialect dialect)
{
    const char *const *names = lnp_roles[role].names;
    return names[dialect] ? names[dialect] : names[LNP_DIALECT_FB];
}

/* `gamma`: which of its two names the GRN gets. */
static void lnp_name_expand(lnp_text *name, const char *pattern, size_t stage, size_t block,
                            int gamma)
{
    for (; *pattern; pattern++) {
        switch (*pattern) {
        case '#': lnp_text_number(name, stage); break;
        case '$': lnp_text_number(name, block); break;
        case '+': lnp_text_put(name, gamma ? "gamma" : "weight"); break;
        case '-': lnp_text_put(name, gamma ? "beta" : "bias"); break;
        default: lnp_text_char(name, *pattern); break;
        }
    }
}

static int lnp_role_is_head(lnp_role role)
{
    return role == LNP_HEAD_WEIGHT || role == LNP_HEAD_BIAS;
}

/* The canonical name, that of transformers' ConvNextV2ForImageClassification. Stage and block are
 * ignored where the role has none. LNP_NAME_CAPACITY is always enough. */
static void lnp_role_name(char *text, size_t capacity, lnp_role role, size_t stage, size_t block)
{
    lnp_text name = lnp_text_in(text, capacity);
    if (!lnp_role_is_head(role)) lnp_text_put(&name, LNP_HF_BASE);
    lnp_name_expand(&name, lnp_roles[role].names[LNP_DIALECT_HF], stage, block, 0);
}

/* The canonical shape (PyTorch's: O I kh kw, O I); returns the rank: 1, 2 or 4. */
static int lnp_role_shape(size_t shape[4], lnp_role role, size_t stage, const lnp_net *net)
{
    const char *letters = lnp_roles[role].shape;
    size_t at = role <= LNP_STEM_NORM_BIAS ? 0 : role >= LNP_NORM_WEIGHT ? LNP_STAGES - 1 : stage;
    int rank = 0;
    for (; letters[rank]; rank++) {
        switch (letters[rank]) {
        case 'C': shape[rank] = net->widths[at]; break;
        case 'P': shape[rank] = net->widths[at - 1]; break;
        case 'M': shape[rank] = 4 * net->widths[at]; break;
        case 'I': shape[rank] = net->channels; break;
        case 'K': shape[rank] = net->classes; break;
        default: shape[rank] = (size_t)(letters[rank] - '0'); break;
        }
    }
    return rank;
}

/* --- checkpoints: an archive read as a ConvNeXt V2 -------------------------------------------- */

typedef struct lnp_checkpoint {
    const lensnet_archive *archive;
    lnp_dialect dialect;
    char prefix[LNP_PREFIX]; /* what stands before its names, */
    const char *base;        /* and before those of all but the head */
    int chosen;              /* names without the prefix are passed over */
    lnp_net net;             /* classes = 0 without a head */
    int has_norm, has_head;  /* 0 in files of the pre-training alone */
    const lensnet_architecture
        *architecture; /* another network, of which `net` has channels and classes
                                                 alone; NULL: ConvNeXt V2 */
} lnp_checkpoint;

static const lensnet_archive_entry *lnp_checkpoint_find(const lnp_checkpoint *checkpoint,
                                                        lnp_role role, size_t stage, size_t block)
{
    const lensnet_archive_entry *entry = NULL;
    int gamma;
    for (gamma = 0; gamma < 2 && !entry; gamma++) {
        char buffer[LNP_NAME_CAPACITY];
        lnp_text name = lnp_text_in(buffer, sizeof buffer);
        lnp_text_put(&name, checkpoint->prefix);
        if (!lnp_role_is_head(role)) lnp_text_put(&name, checkpoint->base);
        lnp_name_expand(&name, lnp_role_pattern(role, checkpoint->dialect), stage, block, gamma);
        entry = lensnet_archive_find(checkpoint->archive, name.text);
    }
    return entry;
}

static int lnp_ends_in(const char *text, const char *end)
{
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && !strcmp(text + length - tail, end);
}

/* Names of a training state, which no reader of weights minds. */
static int lnp_is_state_name(const char *name)
{
    return !strncmp(name, LNP_STATE_PREFIX, strlen(LNP_STATE_PREFIX));
}

/* ConvNeXt V1 has a layer scale where V2 has GRN. */
static int lnp_is_version_1(const lensnet_archive *archive)
{
    size_t i;
    int scale = 0;
    for (i = 0; i < archive->count; i++) {
        const char *name = archive->entries[i].name;
        if (strstr(name, "grn")) return 0;
        scale |= strstr(name, "layer_scale") || lnp_ends_in(name, ".gamma");
    }
    return scale;
}

static lensnet_result lnp_version_1_error(const lensnet_archive *archive, lensnet_error *error)
{
    return lnp_fail(error, LENSNET_ERROR_UNSUPPORTED,
                    "'%.200s' is a ConvNeXt V1 (it has a layer scale and no GRN), and only V2 is "
                    "read; take one of the convnextv2 networks",
                    archive->path);
}

/* Some names of the file, for sentences about names. */
static lensnet_result lnp_checkpoint_foreign(const lensnet_archive *archive, lensnet_error *error)
{
    lnp_quoted quoted[3];
    const size_t count = archive->count;
    size_t i;
    if (lnp_is_version_1(archive)) return lnp_version_1_error(archive, error);
    for (i = 0; i < 3; i++)
        lnp_quote(&quoted[i], count ? archive->entries[i * (count - 1) / 2].name : "(none)");
    return lnp_fail(error, LENSNET_ERROR_FORMAT,
                    "'%.120s' holds no ConvNeXt V2: no name ends in "
                    "embeddings.patch_embeddings.weight (transformers), "
                    "downsample_layers.0.0.weight (the authors) or stem.0.weight (timm); its %zu "
                    "names are like '%.60s', '%.60s', '%.60s'",
                    archive->path, count, quoted[0].text, quoted[1].text, quoted[2].text);
}

/* Takes the prefix of a name in the checkpoint's dialect: that of the first tensor of role `telling`.
 * Returns how many there are, each with a prefix of its own; `second` is another one's. */
static size_t lnp_checkpoint_find_prefix(lnp_checkpoint *checkpoint, lnp_role telling,
                                         const char *wanted, lnp_quoted *second)
{
    char buffer[LNP_NAME_CAPACITY];
    lnp_text end = lnp_text_in(buffer, sizeof buffer);
    size_t i, found = 0;
    lnp_text_put(&end, checkpoint->base);
    lnp_name_expand(&end, lnp_role_pattern(telling, checkpoint->dialect), 0, 0, 0);
    for (i = 0; i < checkpoint->archive->count; i++) {
        const char *name = checkpoint->archive->entries[i].name;
        const size_t length = strlen(name) - end.length;
        lnp_quoted prefix;
        if (!lnp_ends_in(name, end.text) || lnp_is_state_name(name)) continue;
        if (length >= sizeof checkpoint->prefix || (length && name[length - 1] != '.')) continue;
        memcpy(prefix.text, name, length);
        prefix.text[length] = 0;
        if (wanted && strcmp(wanted, prefix.text)) continue;
        if (found++)
            *second = prefix;
        else
            memcpy(checkpoint->prefix, prefix.text, length + 1);
    }
    return found;
}

static lensnet_result lnp_checkpoint_detect(lnp_checkpoint *checkpoint, const char *wanted,
                                            lensnet_error *error)
{
    static const struct {
        lnp_dialect dialect;
        const char *base; /* "": a bare model, and the other two */
        lnp_role telling; /* mmpretrain's stem is called like the authors' */
    } forms[] = {{LNP_DIALECT_HF, LNP_HF_BASE, LNP_STEM_CONV_WEIGHT},
                 {LNP_DIALECT_HF, "", LNP_STEM_CONV_WEIGHT},
                 {LNP_DIALECT_MM, LNP_MM_BASE, LNP_BLOCK_DEPTHWISE_WEIGHT},
                 {LNP_DIALECT_MM, "", LNP_BLOCK_DEPTHWISE_WEIGHT},
                 {LNP_DIALECT_FB, "", LNP_STEM_CONV_WEIGHT},
                 {LNP_DIALECT_TIMM, "", LNP_STEM_CONV_WEIGHT}};
    lnp_quoted second;
    size_t i, found = 0;
    for (i = 0; i < sizeof forms / sizeof *forms && !found; i++) {
        checkpoint->dialect = forms[i].dialect;
        checkpoint->base = forms[i].base;
        found = lnp_checkpoint_find_prefix(checkpoint, forms[i].telling, wanted, &second);
    }
    checkpoint->chosen = wanted != NULL;
    if (found == 1) return LENSNET_OK;
    if (found)
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "'%.160s' holds several networks, under '%s' and '%s'; say which prefix is "
                        "wanted (--prefix)",
                        checkpoint->archive->path, checkpoint->prefix, second.text);
    if (wanted)
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "'%.160s' holds no ConvNeXt V2 under the prefix '%.60s'; it has names like "
                        "'%.60s'",
                        checkpoint->archive->path, wanted,
                        checkpoint->archive->count ? checkpoint->archive->entries[0].name : "");
    return lnp_checkpoint_foreign(checkpoint->archive, error);
}

static size_t lnp_checkpoint_depth(const lnp_checkpoint *checkpoint, size_t stage)
{
    size_t depth = 0;
    while (lnp_checkpoint_find(checkpoint, LNP_BLOCK_NORM_WEIGHT, stage, depth)) depth++;
    return depth;
}

/* Depths by counting, widths from the lengths of norms. Shapes are checked afterwards, all of them.
 *  */
static lensnet_result lnp_checkpoint_infer(lnp_checkpoint *checkpoint, lensnet_error *error)
{
    const lensnet_archive_entry *stem = lnp_checkpoint_find(checkpoint, LNP_STEM_CONV_WEIGHT, 0, 0);
    const lensnet_archive_entry *head = lnp_checkpoint_find(checkpoint, LNP_HEAD_WEIGHT, 0, 0);
    const char *path = checkpoint->archive->path;
    size_t s;
    if (!stem)
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "'%s' has blocks of a ConvNeXt V2 but lacks its stem", path);
    for (s = 0; s < LNP_STAGES; s++) {
        const lensnet_archive_entry *norm =
            lnp_checkpoint_find(checkpoint, LNP_BLOCK_NORM_WEIGHT, s, 0);
        if (!norm || norm->count < 1 || norm->count > LNP_WIDTH_MAX)
            return lnp_fail(error, LENSNET_ERROR_FORMAT,
                            "'%s' begins like a ConvNeXt V2 but has no block 0 in stage %d, or one "
                            "of impossible width; expected four stages",
                            path, (int)s);
        checkpoint->net.widths[s] = (size_t)norm->count;
        checkpoint->net.depths[s] = lnp_checkpoint_depth(checkpoint, s);
    }
    if (stem->rank != 4 || stem->shape[1] < 1 || stem->shape[1] > LNP_WIDTH_MAX)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "'%s': the stem's weight has rank %d; expected (%llu, channels, 4, 4)",
                        path, stem->rank, (unsigned long long)checkpoint->net.widths[0]);
    checkpoint->net.channels = (size_t)stem->shape[1];
    checkpoint->has_head = head || lnp_checkpoint_find(checkpoint, LNP_HEAD_BIAS, 0, 0);
    checkpoint->has_norm = lnp_checkpoint_find(checkpoint, LNP_NORM_WEIGHT, 0, 0) ||
                           lnp_checkpoint_find(checkpoint, LNP_NORM_BIAS, 0, 0);
    if (head && (head->shape[0] < 1 || head->shape[0] > LNP_WIDTH_MAX))
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "'%s': its last layer has an impossible number of classes", path);
    checkpoint->net.classes = head ? (size_t)head->shape[0] : 0;
    return LENSNET_OK;
}

/* Equal but for axes of length 1: the GRN is stored as (1,1,1,4C) and as (4C), linears as (O,I) and
 * as 1x1 convolutions (O,I,1,1). The numbers stand in the same order. */
static int lnp_shape_fits(const lensnet_archive_entry *entry, const size_t *shape, int rank)
{
    int i = 0, j = 0;
    for (;;) {
        while (i < entry->rank && entry->shape[i] == 1) i++;
        while (j < rank && shape[j] == 1) j++;
        if (i == entry->rank || j == rank) return i == entry->rank && j == rank;
        if (entry->shape[i++] != shape[j++]) return 0;
    }
}

static void lnp_name_dimension(lnp_text *name, int first, size_t size)
{
    if (!first) lnp_text_put(name, ", ");
    lnp_text_number(name, size);
}

static lensnet_result lnp_checkpoint_shape_error(const lnp_checkpoint *checkpoint,
                                                 const lensnet_archive_entry *entry,
                                                 const size_t *shape, int rank,
                                                 lensnet_error *error)
{
    char sizes[2][LNP_NAME_CAPACITY];
    lnp_text expected = lnp_text_in(sizes[0], sizeof sizes[0]);
    lnp_text found = lnp_text_in(sizes[1], sizeof sizes[1]);
    lnp_quoted quoted;
    int i;
    for (i = 0; i < rank; i++) lnp_name_dimension(&expected, i == 0, shape[i]);
    for (i = 0; i < entry->rank; i++) lnp_name_dimension(&found, i == 0, (size_t)entry->shape[i]);
    return lnp_fail(
        error, LENSNET_ERROR_SHAPE, "'%s': tensor '%s' has the shape (%s); expected (%s)",
        checkpoint->archive->path, lnp_quote(&quoted, entry->name), found.text, expected.text);
}

/* Whole numbers are those of a quantised network, whose scales are elsewhere: as they stand they say nothing. */
static lensnet_result lnp_checkpoint_check_numbers(const lnp_checkpoint *checkpoint,
                                                   const lensnet_archive_entry *entry,
                                                   lensnet_error *error)
{
    lnp_quoted quoted;
    switch (entry->dtype) {
    case LENSNET_DTYPE_F64:
    case LENSNET_DTYPE_F32:
    case LENSNET_DTYPE_F16:
    case LENSNET_DTYPE_BF16: return LENSNET_OK;
    default:
        return lnp_fail(error, LENSNET_ERROR_UNSUPPORTED,
                        "'%.160s': tensor '%.100s' is of type %s, as a quantised network has them; "
                        "take its weights in F32, F16 or BF16",
                        checkpoint->archive->path, lnp_quote(&quoted, entry->name),
                        lensnet_dtype_text(entry->dtype));
    }
}

static int lnp_checkpoint_has(const lnp_checkpoint *checkpoint, lnp_role role)
{
    if (lnp_role_is_head(role)) return checkpoint->has_head;
    if (role >= LNP_NORM_WEIGHT) return checkpoint->has_norm;
    return 1;
}

static lensnet_result lnp_checkpoint_check_slot(const lnp_checkpoint *checkpoint,
                                                const lnp_slot *slot, lensnet_error *error)
{
    const lensnet_archive_entry *entry =
        lnp_checkpoint_find(checkpoint, slot->role, slot->stage, slot->block);
    size_t shape[4];
    int rank = lnp_role_shape(shape, slot->role, slot->stage, &checkpoint->net);
    if (!lnp_checkpoint_has(checkpoint, slot->role)) return LENSNET_OK;
    if (!entry && lnp_is_version_1(checkpoint->archive))
        return lnp_version_1_error(checkpoint->archive, error);
    if (!entry) {
        char name[LNP_NAME_CAPACITY];
        lnp_role_name(name, sizeof name, slot->role, slot->stage, slot->block);
        return lnp_fail(
            error, LENSNET_ERROR_FORMAT,
            "'%s' lacks a tensor that ConvNeXt V2 needs: the one that transformers calls "
            "'%s'",
            checkpoint->archive->path, name);
    }
    if (!lnp_shape_fits(entry, shape, rank))
        return lnp_checkpoint_shape_error(checkpoint, entry, shape, rank, error);
    return lnp_checkpoint_check_numbers(checkpoint, entry, error);
}

static const char *lnp_digits(const char *text, size_t *number)
{
    *number = 0;
    while (lnp_is_digit(*text) && *number < SIZE_MAX / 16)
        *number = *number * 10 + (size_t)(*text++ - '0');
    return text;
}

/* Could `name` be an expansion of `pattern`? Loose at the GRN's two names. */
static int lnp_pattern_match(const char *pattern, const char *name, lnp_slot *slot)
{
    slot->stage = slot->block = 0;
    for (; *pattern; pattern++) {
        if (*pattern == '+' || *pattern == '-') return 1;
        if (*pattern == '#')
            name = lnp_digits(name, &slot->stage);
        else if (*pattern == '$')
            name = lnp_digits(name, &slot->block);
        else if (*pattern != *name++)
            return 0;
    }
    return *name == 0;
}

static int lnp_slot_in_net(const lnp_slot *slot, const lnp_net *net)
{
    int down = slot->role >= LNP_DOWN_NORM_WEIGHT && slot->role <= LNP_DOWN_CONV_BIAS;
    if (slot->stage >= LNP_STAGES || (down && slot->stage == 0)) return 0;
    return slot->block < net->depths[slot->stage];
}

/* Is this entry the one that some slot of the net asks for? */
static int lnp_checkpoint_expects(const lnp_checkpoint *checkpoint,
                                  const lensnet_archive_entry *entry)
{
    size_t prefix = strlen(checkpoint->prefix);
    size_t base = strlen(checkpoint->base);
    lnp_slot slot;
    int i;
    if (strncmp(entry->name, checkpoint->prefix, prefix) != 0) return 0;
    for (i = 0; i < (int)LNP_ROLE_COUNT; i++) {
        const char *name = entry->name + prefix;
        slot.role = (lnp_role)i;
        if (!lnp_role_is_head(slot.role)) {
            if (strncmp(name, checkpoint->base, base) != 0) continue;
            name += base;
        }
        if (lnp_pattern_match(lnp_role_pattern(slot.role, checkpoint->dialect), name, &slot) &&
            lnp_slot_in_net(&slot, &checkpoint->net) &&
            lnp_checkpoint_find(checkpoint, slot.role, slot.stage, slot.block) == entry)
            return 1;
    }
    return 0;
}

static lensnet_result lnp_checkpoint_check_unexpected(const lnp_checkpoint *checkpoint,
                                                      lensnet_error *error)
{
    const lnp_net *net = &checkpoint->net;
    size_t i;
    for (i = 0; i < checkpoint->archive->count; i++) {
        const lensnet_archive_entry *entry = checkpoint->archive->entries + i;
        lnp_quoted quoted;
        const size_t length = strlen(checkpoint->prefix);
        const int inside = !strncmp(entry->name, checkpoint->prefix, length);
        if (lnp_is_state_name(entry->name) || (checkpoint->chosen && !inside)) continue;
        if (lnp_checkpoint_expects(checkpoint, entry)) continue;
        if (!inside)
            return lnp_fail(error, LENSNET_ERROR_FORMAT,
                            "'%.160s' has a ConvNeXt V2 under '%s', and beside it '%s'; if what is "
                            "under the prefix is wanted alone, say so (--prefix %s)",
                            checkpoint->archive->path, checkpoint->prefix,
                            lnp_quote(&quoted, entry->name), checkpoint->prefix);
        return lnp_fail(
            error, LENSNET_ERROR_FORMAT,
            "'%s' has a tensor '%s' that a ConvNeXt V2 with %llu, %llu, %llu, %llu blocks "
            "does not have; is it another network, or is a block missing?",
            checkpoint->archive->path, lnp_quote(&quoted, entry->name),
            (unsigned long long)net->depths[0], (unsigned long long)net->depths[1],
            (unsigned long long)net->depths[2], (unsigned long long)net->depths[3]);
    }
    return LENSNET_OK;
}

/* Finds out whose names the archive uses and which net it holds, and checks that every parameter is
 * there, in its shape, and nothing else but names under LNP_STATE_PREFIX. `prefix`: what stands before
 * the names that are wanted, others are passed over; NULL: whatever all names begin with. Allocates
 * nothing and borrows the archive. */
static lensnet_result lnp_checkpoint_open(lnp_checkpoint *checkpoint,
                                          const lensnet_archive *archive, const char *prefix,
                                          lensnet_error *error)
{
    lnp_slot slot = {LNP_STEM_CONV_WEIGHT, 0, 0};
    lensnet_result result;
    memset(checkpoint, 0, sizeof *checkpoint);
    checkpoint->archive = archive;
    result = lnp_checkpoint_detect(checkpoint, prefix, error);
    if (!result) result = lnp_checkpoint_infer(checkpoint, error);
    if (result) return result;
    do {
        result = lnp_checkpoint_check_slot(checkpoint, &slot, error);
    } while (!result && lnp_slot_next(&slot, &checkpoint->net));
    return result ? result : lnp_checkpoint_check_unexpected(checkpoint, error);
}

/* =================================================================================================
 * >>image  Resize, turn, affine, augment, normalise: from raw pixels to the network's input.
 * Coordinates and weights are computed in double, pixels are blended in float (resize) or double
 * (affine); every sum has one fixed order.
 * ============================================================================================== */

static lensnet_result lnp_image_check(const char *what, const float *output, const float *input,
                                      size_t height, size_t width, lensnet_error *error)
{
    if (!output || !input)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "%s: output and input must not be NULL",
                        what);
    if (!height || !width || height > LENSNET_IMAGE_LIMIT || width > LENSNET_IMAGE_LIMIT)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "%s: the sides of an image must be 1 to %d pixels, but are %zu x %zu", what,
                        LENSNET_IMAGE_LIMIT, height, width);
    return LENSNET_OK;
}

/* index of `text` among `names`, which end with NULL; -1 if it is none of them */
static int lnp_name_index(const char *const *names, const char *text)
{
    int i;
    for (i = 0; names[i]; i++)
        if (text && !strcmp(names[i], text)) return i;
    return -1;
}

/* -- resize ------------------------------------------------------------------------------------ */

static const char *const lnp_resize_names[] = {"bilinear",       "bicubic",       "nearest",
                                               "bilinear-plain", "bicubic-plain", NULL};

const char *lensnet_resize_text(lensnet_resize_mode mode)
{
    return (int)mode >= 0 && (int)mode <= 4 ? lnp_resize_names[mode] : NULL;
}

lensnet_result lensnet_resize_parse(lensnet_resize_mode *mode, const char *text,
                                    lensnet_error *error)
{
    int index = lnp_name_index(lnp_resize_names, text);
    if (!mode || index < 0)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "resize mode: expected bilinear, bicubic, nearest, bilinear-plain or "
                        "bicubic-plain, found \"%.60s\"",
                        text ? text : "NULL");
    *mode = (lensnet_resize_mode)index;
    return LENSNET_OK;
}

/* How one axis is resampled: output i is the sum over t of weights[i * count + t] times input
 * first[i] + t. */
typedef struct lnp_taps {
    size_t count;
    uint32_t *first;
    float *weights;
} lnp_taps;

/* What a mode means on one axis. */
typedef struct lnp_resampling {
    int nearest, cubic, antialias;
    double a;       /* of the cubic */
    double stretch; /* of the filter, in input pixels */
    double radius;  /* where it ends, stretch included */
} lnp_resampling;

static lnp_resampling lnp_resampling_of(lensnet_resize_mode mode, size_t output, size_t input)
{
    lnp_resampling r;
    memset(&r, 0, sizeof r);
    r.nearest = mode == LENSNET_RESIZE_NEAREST;
    r.cubic = mode == LENSNET_RESIZE_BICUBIC || mode == LENSNET_RESIZE_BICUBIC_PLAIN;
    /* where an axis grows, the antialiased triangle is the plain one */
    r.antialias =
        mode == LENSNET_RESIZE_BICUBIC || (mode == LENSNET_RESIZE_BILINEAR && input > output);
    r.a = mode == LENSNET_RESIZE_BICUBIC ? -0.5 : -0.75;
    r.stretch = r.antialias && input > output ? (double)input / (double)output : 1.0;
    r.radius = (r.cubic ? 2.0 : 1.0) * r.stretch;
    return r;
}

static size_t lnp_tap_count(const lnp_resampling *r, size_t input)
{
    size_t count = 1;
    if (!r->nearest) count = (size_t)ceil(2.0 * r->radius) + (r->antialias ? 1 : 0);
    return lnp_min(count, input);
}

static double lnp_triangle(double t)
{
    t = fabs(t);
    return t < 1.0 ? 1.0 - t : 0.0;
}

/* Keys' cubic */
static double lnp_cubic(double t, double a)
{
    t = fabs(t);
    if (t < 1.0) return ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0;
    if (t < 2.0) return (((t - 5.0) * t + 8.0) * t - 4.0) * a;
    return 0.0;
}

static double lnp_resampling_weight(const lnp_resampling *r, double distance)
{
    double t = distance / r->stretch;
    return r->cubic ? lnp_cubic(t, r->a) : lnp_triangle(t);
}

/* The taps of the output pixel whose centre falls on `centre`. Taps outside the image are left out
 * (antialias) or stand for the border pixel (plain). */
static void lnp_taps_fill(float *weights, uint32_t *first, const lnp_resampling *r, double centre,
                          size_t count, size_t input)
{
    long last = (long)input - 1, low, high, start, j, index;
    double sum = 0.0;
    size_t t;
    if (r->antialias) {
        low = (long)floor(centre - r->radius) + 1;
        if (low < 0) low = 0;
        high = (long)lnp_min(input, (size_t)(floor(centre + r->radius) + 1.0));
    } else {
        low = (long)floor(centre) - (long)r->radius + 1;
        high = low + 2 * (long)r->radius;
    }
    start = low < 0 ? 0 : low;
    if (start > (long)(input - count)) start = (long)(input - count);
    for (j = low; j < high; j++) sum += lnp_resampling_weight(r, (double)j - centre);
    for (t = 0; t < count; t++) weights[t] = 0.0f;
    for (j = low; j < high; j++) {
        index = j < 0 ? 0 : j > last ? last : j;
        weights[index - start] += (float)(lnp_resampling_weight(r, (double)j - centre) / sum);
    }
    *first = (uint32_t)start;
}

static void lnp_taps_make(lnp_taps *taps, const lnp_resampling *r, size_t output, size_t input)
{
    double scale = (double)input / (double)output;
    size_t i;
    for (i = 0; i < output; i++) {
        float *weights = taps->weights + i * taps->count;
        if (r->nearest) {
            taps->first[i] = (uint32_t)((uint64_t)i * input / output);
            weights[0] = 1.0f;
        } else {
            double centre = scale * ((double)i + 0.5) - 0.5;
            lnp_taps_fill(weights, &taps->first[i], r, centre, taps->count, input);
        }
    }
}

/* one row, along it; `count` is a literal where it matters, so that the inner loop unrolls */
LNP_INLINE void lnp_resize_row_of(float *output, const float *input, const lnp_taps *taps,
                                  size_t width, size_t count)
{
    size_t x, t;
    for (x = 0; x < width; x++) {
        const float *from = input + taps->first[x];
        const float *weights = taps->weights + x * count;
        float sum = weights[0] * from[0];
        for (t = 1; t < count; t++) sum += weights[t] * from[t];
        output[x] = sum;
    }
}

static void lnp_resize_row(float *output, const float *input, const lnp_taps *taps, size_t width)
{
    if (taps->count == 2)
        lnp_resize_row_of(output, input, taps, width, 2);
    else if (taps->count == 4)
        lnp_resize_row_of(output, input, taps, width, 4);
    else
        lnp_resize_row_of(output, input, taps, width, taps->count);
}

/* one output row as a weighted sum of whole rows */
static void lnp_resize_rows(float *output, const float *rows, const float *weights, size_t count,
                            size_t width)
{
    size_t x, t;
    if (count == 2) {
        for (x = 0; x < width; x++) output[x] = weights[0] * rows[x] + weights[1] * rows[width + x];
        return;
    }
    for (x = 0; x < width; x++) output[x] = weights[0] * rows[x];
    for (t = 1; t < count; t++)
        for (x = 0; x < width; x++) output[x] += weights[t] * rows[t * width + x];
}

/* Scratch: the image resized along its rows, then weights and first taps of both axes, all 4 bytes
 * wide. The sizes in elements; 0 if they overflow. */
typedef struct lnp_resize_layout {
    lnp_resampling horizontal, vertical;
    size_t horizontal_count, vertical_count;
    size_t rows, horizontal_weights, vertical_weights, total;
} lnp_resize_layout;

static int lnp_resize_plan(lnp_resize_layout *layout, size_t output_height, size_t output_width,
                           size_t height, size_t width, lensnet_resize_mode mode)
{
    size_t total;
    layout->horizontal = lnp_resampling_of(mode, output_width, width);
    layout->vertical = lnp_resampling_of(mode, output_height, height);
    layout->horizontal_count = lnp_tap_count(&layout->horizontal, width);
    layout->vertical_count = lnp_tap_count(&layout->vertical, height);
    if (!lnp_multiply(height, output_width, &layout->rows) ||
        !lnp_multiply(output_width, layout->horizontal_count, &layout->horizontal_weights) ||
        !lnp_multiply(output_height, layout->vertical_count, &layout->vertical_weights) ||
        !lnp_sum(layout->rows, layout->horizontal_weights, &total) ||
        !lnp_sum(total, layout->vertical_weights, &total) ||
        !lnp_sum(total, output_width + output_height, &total) ||
        !lnp_multiply(total, sizeof(float), &layout->total))
        return 0;
    return 1;
}

size_t lensnet_resize_scratch_bytes(size_t output_height, size_t output_width, size_t height,
                                    size_t width, lensnet_resize_mode mode)
{
    lnp_resize_layout layout;
    if (!output_height || !output_width || !height || !width ||
        output_height > LENSNET_IMAGE_LIMIT || output_width > LENSNET_IMAGE_LIMIT ||
        height > LENSNET_IMAGE_LIMIT || width > LENSNET_IMAGE_LIMIT || !lensnet_resize_text(mode))
        return 0;
    if (!lnp_resize_plan(&layout, output_height, output_width, height, width, mode)) return 0;
    return layout.total;
}

static void lnp_resize_run(float *output, const float *input, size_t output_height,
                           size_t output_width, size_t height, size_t width,
                           const lnp_resize_layout *layout, void *scratch)
{
    float *rows = (float *)scratch;
    lnp_taps horizontal, vertical;
    size_t y;
    horizontal.count = layout->horizontal_count;
    horizontal.weights = rows + layout->rows;
    vertical.count = layout->vertical_count;
    vertical.weights = horizontal.weights + layout->horizontal_weights;
    horizontal.first = (uint32_t *)(void *)(vertical.weights + layout->vertical_weights);
    vertical.first = horizontal.first + output_width;
    lnp_taps_make(&horizontal, &layout->horizontal, output_width, width);
    lnp_taps_make(&vertical, &layout->vertical, output_height, height);
    for (y = 0; y < height; y++)
        lnp_resize_row(rows + y * output_width, input + y * width, &horizontal, output_width);
    for (y = 0; y < output_height; y++)
        lnp_resize_rows(output + y * output_width, rows + vertical.first[y] * output_width,
                        vertical.weights + y * vertical.count, vertical.count, output_width);
}

lensnet_result lensnet_resize(float *output, const float *input, size_t output_height,
                              size_t output_width, size_t height, size_t width,
                              lensnet_resize_mode mode, void *scratch, lensnet_error *error)
{
    lnp_resize_layout layout;
    lensnet_result result = lnp_image_check("resize", output, input, height, width, error);
    if (!result)
        result =
            lnp_image_check("resize output", output, input, output_height, output_width, error);
    if (result) return result;
    if (!scratch || !lensnet_resize_text(mode))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "resize: scratch must not be NULL and the mode must be one of "
                        "lensnet_resize_mode, but is %d",
                        (int)mode);
    if (!lnp_resize_plan(&layout, output_height, output_width, height, width, mode))
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "resize: the image's size overflows size_t");
    if (output_height == height && output_width == width)
        memcpy(output, input, height * width * sizeof *output);
    else
        lnp_resize_run(output, input, output_height, output_width, height, width, &layout, scratch);
    return LENSNET_OK;
}

/* -- turn and affine --------------------------------------------------------------------------- */

lensnet_result lensnet_turn(float *output, const float *input, size_t height, size_t width,
                            int hflip, int vflip, int quarter_turns, lensnet_error *error)
{
    lensnet_result result = lnp_image_check("turn", output, input, height, width, error);
    int turns = quarter_turns & 3; /* of a negative number too: two's complement */
    size_t y, x;
    if (result) return result;
    for (y = 0; y < height; y++) {
        size_t to_y = vflip ? height - 1 - y : y;
        for (x = 0; x < width; x++) {
            size_t to_x = hflip ? width - 1 - x : x;
            float value = input[y * width + x];
            switch (turns) {
            case 0: output[to_y * width + to_x] = value; break;
            case 1: output[to_x * height + (height - 1 - to_y)] = value; break;
            case 2: output[(height - 1 - to_y) * width + (width - 1 - to_x)] = value; break;
            default: output[(width - 1 - to_x) * height + to_y] = value; break;
            }
        }
    }
    return LENSNET_OK;
}

static double lnp_radians(double degrees) { return degrees * (3.141592653589793 / 180.0); }

lensnet_result lensnet_affine_matrix(double matrix[6], double degrees, double shift_x,
                                     double shift_y, double scale, double shear_x, double shear_y,
                                     lensnet_error *error)
{
    double r = lnp_radians(degrees), sx = lnp_radians(shear_x), sy = lnp_radians(shear_y);
    double tangent, a, b, c, d;
    if (!matrix)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "affine: the matrix must not be NULL");
    if (!(scale > 0.0 && lnp_is_finite(scale)) || !(fabs(shear_x) < 90.0) ||
        !(fabs(shear_y) < 90.0) || !(fabs(degrees) <= 360000.0) || !lnp_is_finite(shift_x) ||
        !lnp_is_finite(shift_y))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "affine: scale must be positive, shears below 90 degrees, all numbers "
                        "finite; found degrees %g, shift (%g, %g), scale %g, shear (%g, %g)",
                        degrees, shift_x, shift_y, scale, shear_x, shear_y);
    tangent = lensnet_sin(sx) / lensnet_cos(sx);
    a = lensnet_cos(r - sy) / lensnet_cos(sy);
    b = -(a * tangent + lensnet_sin(r));
    c = lensnet_sin(r - sy) / lensnet_cos(sy);
    d = lensnet_cos(r) - c * tangent;
    /* the forward map is scale * (a b; c d), of determinant scale^2 */
    matrix[0] = d / scale;
    matrix[1] = -b / scale;
    matrix[3] = -c / scale;
    matrix[4] = a / scale;
    matrix[2] = -(matrix[0] * shift_x + matrix[1] * shift_y);
    matrix[5] = -(matrix[3] * shift_x + matrix[4] * shift_y);
    return LENSNET_OK;
}

/* Along an output row the source point moves on a line: start + x * step. */
typedef struct lnp_scan {
    const float *input;
    size_t height, width;
    double start_x, start_y, step_x, step_y;
    float fill;
} lnp_scan;

static void lnp_affine_row_nearest(float *output, const lnp_scan *s)
{
    double centre = 0.5 * (double)(s->width - 1);
    double last_x = (double)(s->width - 1), last_y = (double)(s->height - 1);
    size_t x;
    for (x = 0; x < s->width; x++) {
        double from_x = lnp_nearest(s->step_x * ((double)x - centre) + s->start_x);
        double from_y = lnp_nearest(s->step_y * ((double)x - centre) + s->start_y);
        float value = s->fill;
        if (from_x >= 0.0 && from_x <= last_x && from_y >= 0.0 && from_y <= last_y)
            value = s->input[(size_t)(int)from_y * s->width + (size_t)(int)from_x];
        output[x] = value;
    }
}

/* adds one tap's weight to *cover and its share to the value, if it lies inside */
LNP_INLINE double lnp_affine_tap(const lnp_scan *s, double weight, long y, long x, double *cover)
{
    if (x < 0 || y < 0 || x >= (long)s->width || y >= (long)s->height) return 0.0;
    *cover += weight;
    return weight * (double)s->input[(size_t)y * s->width + (size_t)x];
}

static void lnp_affine_row_bilinear(float *output, const lnp_scan *s)
{
    double centre = 0.5 * (double)(s->width - 1), fill = (double)s->fill;
    size_t i;
    for (i = 0; i < s->width; i++) {
        double from_x = s->step_x * ((double)i - centre) + s->start_x;
        double from_y = s->step_y * ((double)i - centre) + s->start_y;
        double value = 0.0, cover = 0.0;
        if (from_x > -1.0 && from_x < (double)s->width && from_y > -1.0 &&
            from_y < (double)s->height) {
            double floor_x = floor(from_x), floor_y = floor(from_y);
            double u = from_x - floor_x, v = from_y - floor_y;
            long x = (long)floor_x, y = (long)floor_y;
            value = lnp_affine_tap(s, (1.0 - u) * (1.0 - v), y, x, &cover);
            value += lnp_affine_tap(s, u * (1.0 - v), y, x + 1, &cover);
            value += lnp_affine_tap(s, (1.0 - u) * v, y + 1, x, &cover);
            value += lnp_affine_tap(s, u * v, y + 1, x + 1, &cover);
        }
        output[i] = (float)(cover * (value - fill) + fill);
    }
}

/* points farther away than this are outside every image, and lnp_nearest needs |x| < 2^51 */
static int lnp_matrix_is_moderate(const double matrix[6])
{
    int i;
    for (i = 0; i < 6; i++)
        if (!(fabs(matrix[i]) <= 1e9)) return 0;
    return 1;
}

lensnet_result lensnet_affine(float *output, const float *input, size_t height, size_t width,
                              const double matrix[6], lensnet_interpolation interpolation,
                              float fill, lensnet_error *error)
{
    lensnet_result result = lnp_image_check("affine", output, input, height, width, error);
    lnp_scan scan;
    size_t y;
    if (result) return result;
    if (!matrix || !lnp_matrix_is_moderate(matrix) ||
        (interpolation != LENSNET_INTERPOLATION_NEAREST &&
         interpolation != LENSNET_INTERPOLATION_BILINEAR))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "affine: expected a matrix of numbers up to 1e9 and an interpolation of "
                        "lensnet_interpolation");
    scan.input = input;
    scan.height = height;
    scan.width = width;
    scan.step_x = matrix[0];
    scan.step_y = matrix[3];
    scan.fill = fill;
    for (y = 0; y < height; y++) {
        double from_centre = (double)y - 0.5 * (double)(height - 1);
        scan.start_x = matrix[1] * from_centre + matrix[2] + 0.5 * (double)(width - 1);
        scan.start_y = matrix[4] * from_centre + matrix[5] + 0.5 * (double)(height - 1);
        if (interpolation == LENSNET_INTERPOLATION_NEAREST)
            lnp_affine_row_nearest(output + y * width, &scan);
        else
            lnp_affine_row_bilinear(output + y * width, &scan);
    }
    return LENSNET_OK;
}

/* -- augmentation ------------------------------------------------------------------------------ */

lensnet_augmentation lensnet_augmentation_defaults(void)
{
    lensnet_augmentation augmentation;
    augmentation.share = 1.0;
    augmentation.hflip_probability = 0.5;
    augmentation.vflip_probability = 0.5;
    augmentation.quarter_turns = 0;
    augmentation.degrees = 30.0;
    augmentation.translate = 0.1;
    augmentation.minimum_scale = 0.9;
    augmentation.maximum_scale = 1.1;
    augmentation.shear = 0.0;
    augmentation.interpolation = LENSNET_INTERPOLATION_NEAREST;
    augmentation.fill = 0.0f;
    return augmentation;
}

static int lnp_within(double value, double low, double high)
{
    return value >= low && value <= high;
}

static lensnet_result lnp_augmentation_check(const lensnet_augmentation *a, size_t height,
                                             size_t width, lensnet_error *error)
{
    if (!lnp_within(a->hflip_probability, 0.0, 1.0) ||
        !lnp_within(a->vflip_probability, 0.0, 1.0) || !lnp_within(a->share, 0.0, 1.0))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "augmentation: share and flip probabilities must be 0 to 1, but are %g, %g "
                        "and %g",
                        a->share, a->hflip_probability, a->vflip_probability);
    if (!lnp_within(a->degrees, 0.0, 360.0) || !lnp_within(a->translate, 0.0, 1.0) ||
        !lnp_within(a->shear, 0.0, 89.0))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "augmentation: expected degrees 0 to 360, translate 0 to 1, shear 0 to 89, "
                        "found %g, %g, %g",
                        a->degrees, a->translate, a->shear);
    if (!lnp_within(a->minimum_scale, 0.001, 1000.0) ||
        !lnp_within(a->maximum_scale, a->minimum_scale, 1000.0))
        return lnp_fail(
            error, LENSNET_ERROR_ARGUMENT,
            "augmentation: scales must rise and lie in 0.001 to 1000, but are %g and %g",
            a->minimum_scale, a->maximum_scale);
    if (a->quarter_turns && height != width)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "augmentation: quarter turns need square images, but this is %zu x %zu",
                        height, width);
    return LENSNET_OK;
}

/* matrix = left * matrix, for a left of four whole numbers (x' = l0 x + l1 y, y' = l2 x + l3 y) */
static void lnp_matrix_turn(double matrix[6], double l0, double l1, double l2, double l3)
{
    int i;
    for (i = 0; i < 3; i++) {
        double x = matrix[i], y = matrix[3 + i];
        matrix[i] = l0 * x + l1 * y;
        matrix[3 + i] = l2 * x + l3 * y;
    }
}

/* The order of the draws is part of LENSNET_NUMERICS. */
enum {
    LNP_DRAW_HFLIP,
    LNP_DRAW_VFLIP,
    LNP_DRAW_TURNS,
    LNP_DRAW_DEGREES,
    LNP_DRAW_SHIFT_X,
    LNP_DRAW_SHIFT_Y,
    LNP_DRAW_SCALE,
    LNP_DRAW_SHEAR_X,
    LNP_DRAW_SHEAR_Y,
    LNP_DRAW_SHARE,
    LNP_DRAW_COUNT
};

lensnet_result lensnet_augment_matrix(double matrix[6], size_t height, size_t width,
                                      const lensnet_augmentation *augmentation, uint64_t seed,
                                      uint64_t epoch, uint64_t file, lensnet_error *error)
{
    lensnet_augmentation defaults = lensnet_augmentation_defaults();
    const lensnet_augmentation *a = augmentation ? augmentation : &defaults;
    uint64_t stream = lensnet_random_bits(seed, file, epoch);
    double u[LNP_DRAW_COUNT], shift_x, shift_y, scale;
    int i, turns;
    lensnet_result result = lnp_augmentation_check(a, height, width, error);
    if (result) return result;
    for (i = 0; i < LNP_DRAW_COUNT; i++) u[i] = lensnet_random_uniform(seed, stream, (uint64_t)i);
    if (u[LNP_DRAW_SHARE] >= a->share)
        return lensnet_affine_matrix(matrix, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, error);
    shift_x = lnp_nearest(a->translate * (double)width * (2.0 * u[LNP_DRAW_SHIFT_X] - 1.0));
    shift_y = lnp_nearest(a->translate * (double)height * (2.0 * u[LNP_DRAW_SHIFT_Y] - 1.0));
    scale = a->minimum_scale + (a->maximum_scale - a->minimum_scale) * u[LNP_DRAW_SCALE];
    result = lensnet_affine_matrix(matrix, a->degrees * (2.0 * u[LNP_DRAW_DEGREES] - 1.0), shift_x,
                                   shift_y, scale, a->shear * (2.0 * u[LNP_DRAW_SHEAR_X] - 1.0),
                                   a->shear * (2.0 * u[LNP_DRAW_SHEAR_Y] - 1.0), error);
    if (result) return result;
    /* The matrix leads back from the output; what came first is undone last. */
    turns = a->quarter_turns ? (int)(4.0 * u[LNP_DRAW_TURNS]) : 0;
    for (i = 0; i < turns; i++) lnp_matrix_turn(matrix, 0.0, 1.0, -1.0, 0.0);
    if (u[LNP_DRAW_VFLIP] < a->vflip_probability) lnp_matrix_turn(matrix, 1.0, 0.0, 0.0, -1.0);
    if (u[LNP_DRAW_HFLIP] < a->hflip_probability) lnp_matrix_turn(matrix, -1.0, 0.0, 0.0, 1.0);
    return LENSNET_OK;
}

lensnet_result lensnet_augment(float *output, const float *input, size_t height, size_t width,
                               const lensnet_augmentation *augmentation, uint64_t seed,
                               uint64_t epoch, uint64_t file, lensnet_error *error)
{
    lensnet_augmentation defaults = lensnet_augmentation_defaults();
    const lensnet_augmentation *a = augmentation ? augmentation : &defaults;
    double matrix[6];
    lensnet_result result = lnp_image_check("augment", output, input, height, width, error);
    if (!result)
        result = lensnet_augment_matrix(matrix, height, width, a, seed, epoch, file, error);
    if (result) return result;
    return lensnet_affine(output, input, height, width, matrix, a->interpolation, a->fill, error);
}

/* -- normalisation ----------------------------------------------------------------------------- */

static const char *const lnp_normalisation_names[] = {
    "none", "minmax", "znorm", "imagenet", "minmax+imagenet", "dataset", NULL};

const char *lensnet_normalisation_text(lensnet_normalisation normalisation)
{
    return (int)normalisation >= 0 && (int)normalisation <= 5
               ? lnp_normalisation_names[normalisation]
               : NULL;
}

lensnet_result lensnet_normalisation_parse(lensnet_normalisation *normalisation, const char *text,
                                           lensnet_error *error)
{
    int index = lnp_name_index(lnp_normalisation_names, text);
    if (!normalisation || index < 0)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "normalisation: expected none, minmax, znorm, imagenet, minmax+imagenet or "
                        "dataset, found \"%.60s\"",
                        text ? text : "NULL");
    *normalisation = (lensnet_normalisation)index;
    return LENSNET_OK;
}

/* smallest and largest pixel; the index of the first pixel that is NaN or too large, or `count` */
static size_t lnp_pixel_range(float *minimum, float *maximum, const float *pixels, size_t count)
{
    float low = pixels[0], high = pixels[0];
    size_t i;
    for (i = 0; i < count; i++) {
        float pixel = pixels[i];
        if (!(pixel >= -1e30f && pixel <= 1e30f)) break;
        if (pixel < low) low = pixel;
        if (pixel > high) high = pixel;
    }
    *minimum = low;
    *maximum = high;
    return i;
}

#define LNP_SUM_LANES 8

/* the sum of (pixel - centre)^power, power 1 or 2, in lanes that are added in order */
LNP_INLINE double lnp_pixel_sum(const float *pixels, size_t count, double centre, int power)
{
    double lanes[LNP_SUM_LANES] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0}, sum = 0.0;
    size_t i, lane;
    for (i = 0; i + LNP_SUM_LANES <= count; i += LNP_SUM_LANES) {
        for (lane = 0; lane < LNP_SUM_LANES; lane++) {
            double value = (double)pixels[i + lane] - centre;
            lanes[lane] += power == 2 ? value * value : value;
        }
    }
    for (lane = 0; i < count; i++, lane++) {
        double value = (double)pixels[i] - centre;
        lanes[lane % LNP_SUM_LANES] += power == 2 ? value * value : value;
    }
    for (lane = 0; lane < LNP_SUM_LANES; lane++) sum += lanes[lane];
    return sum;
}

/* output = (input - centre) * factor, rounded once */
static void lnp_pixel_map(float *output, const float *input, size_t count, double centre,
                          double factor)
{
    size_t i;
    for (i = 0; i < count; i++) output[i] = (float)(((double)input[i] - centre) * factor);
}

/* smallest and largest pixel of planes of (height, width), or what is wrong with the first bad one */
static lensnet_result lnp_pixel_check(float *minimum, float *maximum, const float *pixels,
                                      size_t count, size_t height, size_t width, const char *who,
                                      lensnet_error *error)
{
    size_t bad = lnp_pixel_range(minimum, maximum, pixels, count);
    if (bad == count) return LENSNET_OK;
    return lnp_fail(error, LENSNET_ERROR_NUMBER,
                    "%s: expected finite pixels up to 1e30, found %g in row %zu, column "
                    "%zu (from 0); replace or drop bad pixels before",
                    who, (double)pixels[bad], bad / width % height, bad % width);
}

/* lensnet_normalise of all planes together; sizes are checked */
static lensnet_result lnp_normalise(float *output, const float *input, size_t count, size_t height,
                                    size_t width, lensnet_normalisation normalisation,
                                    lensnet_error *error)
{
    double mean, variance;
    float low, high;
    lensnet_result result =
        lnp_pixel_check(&low, &high, input, count, height, width, "normalise", error);
    if (result) return result;
    if (normalisation == LENSNET_NORMALISATION_NONE ||
        normalisation == LENSNET_NORMALISATION_IMAGENET ||
        normalisation == LENSNET_NORMALISATION_DATASET) {
        memmove(output, input, count * sizeof *output);
    } else if (low == high) {
        memset(output, 0, count * sizeof *output);
    } else if (normalisation == LENSNET_NORMALISATION_ZNORM) {
        mean = lnp_pixel_sum(input, count, 0.0, 1) / (double)count;
        variance = lnp_pixel_sum(input, count, mean, 2) / (double)count;
        lnp_pixel_map(output, input, count, mean, 1.0 / sqrt(variance));
    } else {
        lnp_pixel_map(output, input, count, (double)low, 1.0 / ((double)high - (double)low));
    }
    return LENSNET_OK;
}

lensnet_result lensnet_normalise(float *output, const float *input, size_t height, size_t width,
                                 lensnet_normalisation normalisation, lensnet_error *error)
{
    lensnet_result result = lnp_image_check("normalise", output, input, height, width, error);
    if (result) return result;
    if (!lensnet_normalisation_text(normalisation))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "normalise: the mode must be one of lensnet_normalisation, but is %d",
                        (int)normalisation);
    return lnp_normalise(output, input, height * width, height, width, normalisation, error);
}

/* -- stretch and mending ----------------------------------------------------------------------- */

static const char *const lnp_stretch_names[] = {"none", "asinh", "log", "sqrt", NULL};

const char *lensnet_stretch_text(lensnet_stretch_mode mode)
{
    return (int)mode >= 0 && (int)mode <= 3 ? lnp_stretch_names[mode] : NULL;
}

lensnet_result lensnet_stretch_parse(lensnet_stretch_mode *mode, const char *text,
                                     lensnet_error *error)
{
    int index = lnp_name_index(lnp_stretch_names, text);
    if (!mode || index < 0)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "stretch: expected none, asinh, log or sqrt, found \"%.60s\"",
                        text ? text : "NULL");
    *mode = (lensnet_stretch_mode)index;
    return LENSNET_OK;
}

static double lnp_asinh(double x) { return lensnet_log(x + sqrt(x * x + 1.0)); } /* x >= 0 */

/* lensnet_stretch of all planes together; sizes are checked */
static lensnet_result lnp_stretch(float *output, const float *input, size_t count, size_t height,
                                  size_t width, lensnet_stretch_mode mode, lensnet_error *error)
{
    float low, high;
    double factor, scale;
    size_t i;
    lensnet_result result =
        lnp_pixel_check(&low, &high, input, count, height, width, "stretch", error);
    if (result) return result;
    if (low == high) {
        memset(output, 0, count * sizeof *output);
        return LENSNET_OK;
    }
    factor = 1.0 / ((double)high - (double)low);
    scale = mode == LENSNET_STRETCH_ASINH ? 1.0 / lnp_asinh(10.0) : 1.0 / lensnet_log(1001.0);
    for (i = 0; i < count; i++) {
        double t = ((double)input[i] - (double)low) * factor;
        output[i] = (float)(mode == LENSNET_STRETCH_ASINH ? scale * lnp_asinh(10.0 * t)
                            : mode == LENSNET_STRETCH_LOG ? scale * lensnet_log(1.0 + 1000.0 * t)
                                                          : sqrt(t));
    }
    return LENSNET_OK;
}

lensnet_result lensnet_stretch(float *output, const float *input, size_t height, size_t width,
                               lensnet_stretch_mode mode, lensnet_error *error)
{
    lensnet_result result = lnp_image_check("stretch", output, input, height, width, error);
    if (result) return result;
    if (!lensnet_stretch_text(mode))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "stretch: the mode must be one of lensnet_stretch_mode, but is %d",
                        (int)mode);
    if (mode) return lnp_stretch(output, input, height * width, height, width, mode, error);
    memmove(output, input, height * width * sizeof *output);
    return LENSNET_OK;
}

static const char *const lnp_mend_names[] = {"refuse", "zero", "median", NULL};

const char *lensnet_mend_text(lensnet_mend_mode mode)
{
    return (int)mode >= 0 && (int)mode <= 2 ? lnp_mend_names[mode] : NULL;
}

lensnet_result lensnet_mend_parse(lensnet_mend_mode *mode, const char *text, lensnet_error *error)
{
    int index = lnp_name_index(lnp_mend_names, text);
    if (!mode || index < 0)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "mending: expected refuse, zero or median, found \"%.60s\"",
                        text ? text : "NULL");
    *mode = (lensnet_mend_mode)index;
    return LENSNET_OK;
}

/* A number for a float's bits that grows as the float does. */
static uint32_t lnp_pixel_key(float pixel)
{
    uint32_t bits;
    memcpy(&bits, &pixel, sizeof bits);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* The pixel of rank (finite - 1) / 2 among the finite ones, found a byte of its key at a time. */
static float lnp_pixel_median(const float *pixels, size_t count, size_t finite)
{
    size_t rank = (finite - 1) / 2, i;
    uint32_t key = 0, known = 0;
    float median;
    int shift;
    for (shift = 24; shift >= 0; shift -= 8) {
        size_t found[256] = {0};
        uint32_t byte = 0;
        for (i = 0; i < count; i++) {
            uint32_t k = lnp_pixel_key(pixels[i]);
            if (lnp_is_finite((double)pixels[i]) && (k & known) == key) found[k >> shift & 255u]++;
        }
        while (rank >= found[byte]) rank -= found[byte++];
        key |= byte << shift;
        known |= 255u << shift;
    }
    key = key >> 31 ? key & 0x7fffffffu : ~key;
    memcpy(&median, &key, sizeof median);
    return median;
}

lensnet_result lensnet_mend(float *pixels, size_t height, size_t width, lensnet_mend_mode mode,
                            size_t *mended, lensnet_error *error)
{
    lensnet_result result = lnp_image_check("mend", pixels, pixels, height, width, error);
    size_t count = height * width, finite = 0, first, i;
    float value;
    if (result) return result;
    if (!lensnet_mend_text(mode))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "mend: the mode must be one of lensnet_mend_mode, but is %d", (int)mode);
    for (i = 0; i < count; i++) finite += (size_t)lnp_is_finite((double)pixels[i]);
    if (mended) *mended = count - finite;
    if (finite == count) return LENSNET_OK;
    for (first = 0; lnp_is_finite((double)pixels[first]);) first++;
    if (!finite || mode == LENSNET_MEND_REFUSE)
        return lnp_fail(error, LENSNET_ERROR_NUMBER,
                        "the pixel in row %zu, column %zu is %s (%zu of %zu are not finite)",
                        first / width, first % width,
                        pixels[first] != pixels[first] ? "NaN" : "infinite", count - finite, count);
    value = mode == LENSNET_MEND_ZERO ? 0.0f : lnp_pixel_median(pixels, count, finite);
    for (i = 0; i < count; i++)
        if (!lnp_is_finite((double)pixels[i])) pixels[i] = value;
    return LENSNET_OK;
}

/* -- preprocessing ----------------------------------------------------------------------------- */

lensnet_preprocess lensnet_preprocess_defaults(void)
{
    lensnet_preprocess preprocess;
    int c;
    preprocess.crop = 0;
    preprocess.image_size = 224;
    preprocess.channels = 3;
    preprocess.bands = 1;
    preprocess.stretch = LENSNET_STRETCH_NONE;
    preprocess.normalisation = LENSNET_NORMALISATION_ZNORM;
    preprocess.resize = LENSNET_RESIZE_BILINEAR;
    preprocess.source_size = 0;
    preprocess.pixel_scale = 0.0;
    preprocess.resized = 0;
    for (c = 0; c < LENSNET_BANDS_LIMIT; c++) {
        preprocess.mean[c] = 0.0f;
        preprocess.deviation[c] = 1.0f;
    }
    return preprocess;
}

static int lnp_is_imagenet(lensnet_normalisation normalisation)
{
    return normalisation == LENSNET_NORMALISATION_IMAGENET ||
           normalisation == LENSNET_NORMALISATION_MINMAX_IMAGENET;
}

lensnet_result lensnet_preprocess_check(const lensnet_preprocess *preprocess, lensnet_error *error)
{
    int c;
    if (!preprocess) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "preprocess: must not be NULL");
    if (preprocess->image_size < 1 || preprocess->image_size > LENSNET_IMAGE_LIMIT)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "preprocess: the image size must be 1 to %d pixels, but is %d",
                        LENSNET_IMAGE_LIMIT, preprocess->image_size);
    if (preprocess->crop < 0 || preprocess->crop > LENSNET_IMAGE_LIMIT)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "preprocess: the crop must be 0 (none) to %d pixels, but is %d",
                        LENSNET_IMAGE_LIMIT, preprocess->crop);
    if (preprocess->bands < 1 || preprocess->bands > LENSNET_BANDS_LIMIT)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "preprocess: bands must be 1 to %d, but are %d", LENSNET_BANDS_LIMIT,
                        preprocess->bands);
    if (preprocess->bands > 1 && preprocess->bands != preprocess->channels)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "preprocess: a network of %d channels cannot take %d bands",
                        preprocess->channels, preprocess->bands);
    if (preprocess->bands == 1 && preprocess->channels != 1 && preprocess->channels != 3)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "preprocess: channels must be 1 or 3 for grey images, but are %d",
                        preprocess->channels);
    if (preprocess->resized &&
        (preprocess->resized < preprocess->image_size || preprocess->resized > LENSNET_IMAGE_LIMIT))
        return lnp_fail(
            error, LENSNET_ERROR_ARGUMENT,
            "preprocess: resized to %d pixels; expected 0, or %d (the image size) to %d",
            preprocess->resized, preprocess->image_size, LENSNET_IMAGE_LIMIT);
    if (preprocess->normalisation == LENSNET_NORMALISATION_DATASET)
        for (c = 0; c < preprocess->channels; c++)
            if (!(preprocess->deviation[c] > 0.0f && preprocess->deviation[c] < 1e30f) ||
                !(fabsf(preprocess->mean[c]) < 1e30f))
                return lnp_fail(
                    error, LENSNET_ERROR_ARGUMENT,
                    "preprocess: mean %g and deviation %g of channel %d; expected numbers, "
                    "the deviation above 0",
                    (double)preprocess->mean[c], (double)preprocess->deviation[c], c);
    if (!lensnet_normalisation_text(preprocess->normalisation) ||
        !lensnet_resize_text(preprocess->resize) || !lensnet_stretch_text(preprocess->stretch))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "preprocess: unknown normalisation %d, resize mode %d or stretch %d",
                        (int)preprocess->normalisation, (int)preprocess->resize,
                        (int)preprocess->stretch);
    if (preprocess->bands != 1 && preprocess->bands != 3 &&
        lnp_is_imagenet(preprocess->normalisation))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "preprocess: ImageNet has a mean for 1 or 3 bands, not for %d",
                        preprocess->bands);
    return LENSNET_OK;
}

/* Scratch holds two planes, each image passing from one to the other, and the resize's own. Of several
 * bands all lie in the first, and a third plane takes each in turn from the second. */
static size_t lnp_resized(const lensnet_preprocess *preprocess)
{
    return (size_t)(preprocess->resized ? preprocess->resized : preprocess->image_size);
}

static size_t lnp_first_plane(const lensnet_preprocess *preprocess, size_t height, size_t width)
{
    size_t side = lnp_resized(preprocess), bands = (size_t)preprocess->bands;
    if (bands > 1) return lnp_round_up(bands * height * width, 16);
    return lnp_round_up(lnp_max(height * width, side * side), 16);
}

size_t lensnet_preprocess_scratch_bytes(const lensnet_preprocess *preprocess, size_t height,
                                        size_t width)
{
    size_t side, floats, bytes, resize;
    if (lensnet_preprocess_check(preprocess, NULL)) return 0;
    if (!height || !width || height > LENSNET_IMAGE_LIMIT || width > LENSNET_IMAGE_LIMIT) return 0;
    side = lnp_resized(preprocess);
    if (preprocess->crop) height = width = (size_t)preprocess->crop;
    resize = lensnet_resize_scratch_bytes(side, side, height, width, preprocess->resize);
    if (!resize || !lnp_multiply(height, width, &floats) || !lnp_multiply(side, side, &floats) ||
        floats > SIZE_MAX / 1024 || height * width > SIZE_MAX / 1024)
        return 0;
    floats = lnp_first_plane(preprocess, height, width) +
             (preprocess->bands > 1 ? 2u : 1u) * lnp_round_up(side * side, 16);
    return lnp_sum(floats * sizeof(float), resize, &bytes) ? bytes : 0;
}

/* What the per-channel part of a normalisation takes off a channel and multiplies it by. */
static void lnp_channel_map(float *shift, float *factor, int channel, const lensnet_preprocess *p)
{
    static const double mean[3] = {0.485, 0.456, 0.406}, deviation[3] = {0.229, 0.224, 0.225};
    const int three = p->channels == 3;
    *shift = 0.0f;
    *factor = 1.0f;
    if (lnp_is_imagenet(p->normalisation)) {
        *shift = (float)(three ? mean[channel] : 0.449);
        *factor = (float)(1.0 / (three ? deviation[channel] : 0.226));
    } else if (p->normalisation == LENSNET_NORMALISATION_DATASET) {
        *shift = p->mean[channel];
        *factor = (float)(1.0 / (double)p->deviation[channel]);
    }
}

/* A plane (H, W) to channel `channel` of (H, W, C), minus its mean, over its deviation */
static void lnp_put_channel(float *output, const float *plane, size_t count, int channel,
                            const lensnet_preprocess *preprocess)
{
    const size_t stride = (size_t)preprocess->channels;
    float shift, factor;
    size_t i;
    lnp_channel_map(&shift, &factor, channel, preprocess);
    output += channel;
    for (i = 0; i < count; i++) output[i * stride] = (plane[i] - shift) * factor;
}

/* (H, W) to (H, W, C): the same plane in every channel */
static void lnp_expand_channels(float *output, const float *plane, size_t count,
                                const lensnet_preprocess *preprocess)
{
    float shift[3], factor[3];
    size_t i;
    int c;
    if (preprocess->channels == 1) {
        lnp_put_channel(output, plane, count, 0, preprocess);
        return;
    }
    for (c = 0; c < 3; c++) lnp_channel_map(&shift[c], &factor[c], c, preprocess);
    for (i = 0; i < count; i++) {
        output[3 * i] = (plane[i] - shift[0]) * factor[0];
        output[3 * i + 1] = (plane[i] - shift[1]) * factor[1];
        output[3 * i + 2] = (plane[i] - shift[2]) * factor[2];
    }
}

/* Where a crop of `crop` begins in an axis of `size` pixels, or, negative, how many zeros come first. */
static long lnp_crop_start(size_t size, size_t crop)
{
    return size >= crop ? (long)((size - crop) / 2) : -(long)((crop - size + 1) / 2);
}

/* (height, width) to the (crop, crop) in its middle, zeros where the image ends. */
static void lnp_crop(float *output, const float *input, size_t height, size_t width, size_t crop)
{
    const long top = lnp_crop_start(height, crop), left = lnp_crop_start(width, crop);
    const size_t begin = left < 0 ? (size_t)-left : 0, from = left < 0 ? 0 : (size_t)left;
    const size_t count = lnp_min(width, crop);
    size_t y;
    if (height < crop || width < crop) memset(output, 0, crop * crop * sizeof *output);
    for (y = 0; y < crop; y++) {
        const long row = (long)y + top;
        if (row < 0 || row >= (long)height) continue;
        memcpy(output + y * crop + begin, input + (size_t)row * width + from,
               count * sizeof *output);
    }
}

/* Crop, stretch and normalisation of all bands, to `first`. *height and *width are then the crop's. */
static lensnet_result lnp_preprocess_pixels(float *first, const float *pixels, size_t *height,
                                            size_t *width, const lensnet_preprocess *preprocess,
                                            lensnet_error *error)
{
    const size_t bands = (size_t)preprocess->bands;
    lensnet_result result = LENSNET_OK;
    if (preprocess->crop) {
        const size_t crop = (size_t)preprocess->crop;
        size_t band;
        for (band = 0; band < bands; band++)
            lnp_crop(first + band * crop * crop, pixels + band * *height * *width, *height, *width,
                     crop);
        *height = *width = crop;
        pixels = first;
    }
    if (preprocess->stretch) {
        result = lnp_stretch(first, pixels, bands * *height * *width, *height, *width,
                             preprocess->stretch, error);
        pixels = first;
    }
    if (result) return result;
    return lnp_normalise(first, pixels, bands * *height * *width, *height, *width,
                         preprocess->normalisation, error);
}

lensnet_result lensnet_preprocess_augmented(float *output, const float *pixels, size_t height,
                                            size_t width, const lensnet_preprocess *preprocess,
                                            const lensnet_augmentation *augmentation, uint64_t seed,
                                            uint64_t epoch, uint64_t file, void *scratch,
                                            lensnet_error *error)
{
    lensnet_result result = lnp_image_check("preprocess", output, pixels, height, width, error);
    float *first = (float *)scratch, *second, *third, *plane, *rest;
    uint64_t mode;
    size_t side, resized, area;
    int band;
    if (!result) result = lensnet_preprocess_check(preprocess, error);
    if (result) return result;
    if (!lensnet_preprocess_scratch_bytes(preprocess, height, width) || !scratch)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "preprocess: scratch of lensnet_preprocess_scratch_bytes is needed");
    side = (size_t)preprocess->image_size;
    mode = lnp_mode_enter();
    result = lnp_preprocess_pixels(first, pixels, &height, &width, preprocess, error);
    second = first + lnp_first_plane(preprocess, height, width);
    resized = lnp_resized(preprocess);
    area = lnp_round_up(resized * resized, 16);
    third = preprocess->bands > 1 ? second + area : first;
    rest = preprocess->bands > 1 ? third + area : second + area;
    for (band = 0; !result && band < preprocess->bands; band++) {
        result = lensnet_resize(second, first + (size_t)band * height * width, resized, resized,
                                height, width, preprocess->resize, rest, error);
        plane = second;
        if (!result && resized != side) {
            lnp_crop(third, second, resized, resized, side);
            memcpy(second, third, side * side * sizeof *second);
        }
        if (!result && augmentation) {
            result =
                lensnet_augment(third, second, side, side, augmentation, seed, epoch, file, error);
            plane = third;
        }
        if (!result && preprocess->bands > 1)
            lnp_put_channel(output, plane, side * side, band, preprocess);
        else if (!result)
            lnp_expand_channels(output, plane, side * side, preprocess);
    }
    lnp_mode_leave(mode);
    return result;
}

lensnet_result lensnet_preprocess_image(float *output, const float *pixels, size_t height,
                                        size_t width, const lensnet_preprocess *preprocess,
                                        void *scratch, lensnet_error *error)
{
    return lensnet_preprocess_augmented(output, pixels, height, width, preprocess, NULL, 0, 0, 0,
                                        scratch, error);
}
/* =================================================================================================
 * >>schedule  Learning rates: plateau, warm-up and cosine, layer-wise decay, drop-path rates.
 * ============================================================================================== */

lensnet_plateau lensnet_plateau_defaults(void)
{
    lensnet_plateau plateau;
    memset(&plateau, 0, sizeof plateau);
    plateau.patience = 10;
    plateau.factor = 0.1;
    plateau.threshold = 1e-4;
    plateau.epsilon = 1e-8;
    return plateau;
}

/* The struct may come from a file; NaN fails every comparison. */
static lensnet_result lnp_plateau_check(const lensnet_plateau *plateau, lensnet_error *error)
{
    if (!(plateau->factor > 0.0 && plateau->factor < 1.0))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "plateau: factor must lie between 0 and 1, but is %g", plateau->factor);
    if (plateau->patience < 0 || plateau->cooldown < 0)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "plateau: patience and cooldown must not be negative, but are %d and %d",
                        plateau->patience, plateau->cooldown);
    if (!(plateau->threshold >= 0.0 && plateau->minimum_rate >= 0.0 && plateau->epsilon >= 0.0))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "plateau: threshold, minimum rate and epsilon must not be negative, but "
                        "are %g, %g and %g",
                        plateau->threshold, plateau->minimum_rate, plateau->epsilon);
    if (plateau->bad_epochs < 0 || plateau->bad_epochs > 1000000000 || plateau->cooldown_left < 0)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "plateau: the stored counts %d (bad epochs) and %d (cooldown) are "
                        "impossible; was the checkpoint damaged?",
                        plateau->bad_epochs, plateau->cooldown_left);
    return LENSNET_OK;
}

static int lnp_plateau_is_better(const lensnet_plateau *plateau, double metric)
{
    double infinity = lnp_infinity();
    double best = plateau->has_best ? plateau->best : plateau->maximise ? -infinity : infinity;
    if (plateau->maximise)
        return metric >
               (plateau->absolute ? best + plateau->threshold : best * (1.0 + plateau->threshold));
    return metric <
           (plateau->absolute ? best - plateau->threshold : best * (1.0 - plateau->threshold));
}

static double lnp_plateau_reduced(const lensnet_plateau *plateau, double rate)
{
    double reduced = rate * plateau->factor;
    if (reduced < plateau->minimum_rate) reduced = plateau->minimum_rate;
    return rate - reduced > plateau->epsilon ? reduced : rate;
}

lensnet_result lensnet_plateau_step(lensnet_plateau *plateau, double *learning_rate, double metric,
                                    lensnet_error *error)
{
    lensnet_result result;
    if (!plateau || !learning_rate)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "plateau: the struct and the learning rate must not be NULL");
    result = lnp_plateau_check(plateau, error);
    if (result) return result;
    if (lnp_plateau_is_better(plateau, metric)) {
        plateau->best = metric;
        plateau->has_best = 1;
        plateau->bad_epochs = 0;
    } else {
        plateau->bad_epochs++;
    }
    if (plateau->cooldown_left > 0) {
        plateau->cooldown_left--;
        plateau->bad_epochs = 0;
    }
    if (plateau->bad_epochs > plateau->patience) {
        *learning_rate = lnp_plateau_reduced(plateau, *learning_rate);
        plateau->cooldown_left = plateau->cooldown;
        plateau->bad_epochs = 0;
    }
    return LENSNET_OK;
}

double lensnet_cosine_rate(const lensnet_cosine *cosine, double epoch)
{
    double part;
    if (epoch < cosine->warmup_epochs) return cosine->base_rate * epoch / cosine->warmup_epochs;
    if (epoch >= cosine->epochs) return cosine->minimum_rate;
    part = (epoch - cosine->warmup_epochs) / (cosine->epochs - cosine->warmup_epochs);
    return cosine->minimum_rate + (cosine->base_rate - cosine->minimum_rate) * 0.5 *
                                      (1.0 + lensnet_cos(3.141592653589793 * part));
}

double lensnet_drop_path_rate(double rate, int block, int blocks)
{
    return blocks > 1 ? rate * block / (blocks - 1) : 0.0;
}

int lensnet_layer_count(lensnet_layer_decay kind, const int depths[4])
{
    return kind == LENSNET_LAYER_DECAY_GROUP ? 12 : depths[0] + depths[1] + depths[2] + depths[3];
}

static int lnp_layer_number_single(const int depths[4], int stage, int block)
{
    int number =
        block == LENSNET_LAYER_DOWNSAMPLE ? 1 : block + 1; /* with the stage's first block */
    int s;
    for (s = 0; s < stage; s++) number += depths[s];
    return number;
}

static int lnp_layer_number_group(int stage, int block)
{
    static const int downsample[4] = {0, 2, 3, 12};
    if (block == LENSNET_LAYER_DOWNSAMPLE) return downsample[stage];
    if (stage == 3) return 12;
    return stage == 2 ? 3 + block / 3 : stage + 1;
}

int lensnet_layer_number(lensnet_layer_decay kind, const int depths[4], int stage, int block)
{
    if (stage >= LENSNET_LAYER_HEAD) return lensnet_layer_count(kind, depths) + 1;
    return kind == LENSNET_LAYER_DECAY_GROUP ? lnp_layer_number_group(stage, block)
                                             : lnp_layer_number_single(depths, stage, block);
}

double lensnet_layer_scale(lensnet_layer_decay kind, double decay, const int depths[4], int stage,
                           int block)
{
    int above =
        lensnet_layer_count(kind, depths) + 1 - lensnet_layer_number(kind, depths, stage, block);
    return lensnet_pow(decay, above);
}
/* =================================================================================================
 * >>adamw-impl  One loop over the flat buffers. Weights with and without decay alternate in them, so
 * the loop walks runs of neighbouring tensors of one kind.
 * ============================================================================================== */

struct lensnet_adamw {
    lensnet_host host;
    lensnet_parameters *parameters;
    lensnet_adamw_desc desc;
    lnp_row_kernels rows;
    lnp_team team;
    float *first, *second; /* moments, in the order of the values */
    float *average;        /* of the values; NULL: none is kept */
    float *rates;          /* of every tensor; NULL: all 1 */
    int swapped;           /* the average stands in the place of the values */
    uint64_t steps;
};

lensnet_adamw_desc lensnet_adamw_defaults(void)
{
    lensnet_adamw_desc d;
    d.beta1 = 0.9;
    d.beta2 = 0.999;
    d.epsilon = 1e-8;
    d.weight_decay = 0.01;
    d.decay_all = 1;
    d.clip_norm = 0;
    d.average_decay = 0;
    d.rates = NULL;
    return d;
}

/* Copies the factors on the rate. */
static lensnet_result lnp_adamw_take_rates(lensnet_adamw *a, const float *rates,
                                           lensnet_error *error)
{
    const size_t count = a->parameters->count;
    size_t i;
    if (!rates) return LENSNET_OK;
    for (i = 0; i < count; i++)
        if (!(rates[i] >= 0.0f && rates[i] <= 1e6f))
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "AdamW: the rate's factor for %s is %g; expected 0 ... 1e6",
                            a->parameters->weights[i].name, (double)rates[i]);
    a->rates = (float *)lnp_allocate(&a->host, count * sizeof(float));
    if (!a->rates)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for the rates of AdamW");
    memcpy(a->rates, rates, count * sizeof(float));
    return LENSNET_OK;
}

static lensnet_result lnp_adamw_check(const lensnet_adamw_desc *d, lensnet_error *error)
{
    if (!(d->beta1 >= 0 && d->beta1 < 1 && d->beta2 >= 0 && d->beta2 < 1))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "AdamW: betas %g, %g; expected 0 <= beta < 1", d->beta1, d->beta2);
    if (!(d->epsilon > 0 && d->weight_decay >= 0 && d->clip_norm >= 0))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "AdamW: epsilon %g must be > 0, weight decay %g and clip norm %g >= 0",
                        d->epsilon, d->weight_decay, d->clip_norm);
    if (!(d->average_decay >= 0 && d->average_decay < 1))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "AdamW: average decay %g; expected 0 <= decay < 1", d->average_decay);
    return LENSNET_OK;
}

lensnet_result lensnet_adamw_create(lensnet_adamw **adamw, lensnet_parameters *p,
                                    const lensnet_adamw_desc *desc, lensnet_error *error)
{
    lensnet_adamw_desc defaults = lensnet_adamw_defaults();
    lensnet_result result;
    lensnet_adamw *a;
    size_t bytes;
    if (!adamw) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "AdamW: NULL result pointer");
    *adamw = NULL;
    if (!p || !p->gradients)
        return lnp_fail(error, LENSNET_ERROR_STATE, "AdamW: the parameters have no gradients");
    if (!desc) desc = &defaults;
    result = lnp_adamw_check(desc, error);
    if (result) return result;
    a = (lensnet_adamw *)lnp_allocate(&p->host, sizeof *a);
    if (!a) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for AdamW");
    memset(a, 0, sizeof *a);
    a->host = p->host;
    a->parameters = p;
    a->desc = *desc;
    a->rows = lnp_row_kernels_for(lnp_detect_isa(p->host.isa_cap));
    lnp_team_begin(&a->team, lnp_threads(&p->host), p->process);
    bytes = p->size * sizeof(float);
    a->first = (float *)lnp_allocate(&a->host, bytes);
    a->second = (float *)lnp_allocate(&a->host, bytes);
    if (desc->average_decay > 0) a->average = (float *)lnp_allocate(&a->host, bytes);
    if (!a->first || !a->second || (desc->average_decay > 0 && !a->average)) {
        lensnet_adamw_destroy(a);
        return lnp_fail(error, LENSNET_ERROR_MEMORY,
                        "out of memory for the moments of AdamW (%.1f MB)",
                        (desc->average_decay > 0 ? 3 : 2) * (double)bytes / 1e6);
    }
    memset(a->first, 0, bytes);
    memset(a->second, 0, bytes);
    a->desc.rates = NULL;
    result = lnp_adamw_take_rates(a, desc->rates, error);
    if (result)
        lensnet_adamw_destroy(a);
    else
        *adamw = a;
    return result;
}

void lensnet_adamw_destroy(lensnet_adamw *a)
{
    lensnet_host host;
    size_t bytes;
    if (!a) return;
    host = a->host;
    bytes = a->parameters->size * sizeof(float);
    lnp_release(&host, a->first, bytes);
    lnp_release(&host, a->second, bytes);
    lnp_release(&host, a->average, bytes);
    if (a->rates) lnp_release(&host, a->rates, a->parameters->count * sizeof(float));
    lnp_release(&host, a, sizeof *a);
}

uint64_t lensnet_adamw_steps(const lensnet_adamw *a) { return a ? a->steps : 0; }

/* The authors' rule: vectors, biases and GRN do not decay. GRN is (1, 1, 1, 4C). */
static int lnp_decays(const lensnet_adamw *a, const lnp_weight *w)
{
    return a->desc.decay_all || (w->rank > 1 && w->size > w->shape[w->rank - 1]);
}

static double lnp_rate_factor(const lensnet_adamw *a, size_t index)
{
    if (a->parameters->weights[index].statistic) return 0.0;
    return a->rates ? (double)a->rates[index] : 1.0;
}

/* Tensors from *index on that are updated alike: returns the floats of the run and moves *index past it. */
static size_t lnp_alike_run(const lensnet_adamw *a, size_t *index)
{
    const lensnet_parameters *p = a->parameters;
    const int decays = lnp_decays(a, &p->weights[*index]);
    const int statistic = p->weights[*index].statistic;
    const double factor = lnp_rate_factor(a, *index);
    size_t floats = 0;
    while (*index < p->count && lnp_decays(a, &p->weights[*index]) == decays &&
           p->weights[*index].statistic == statistic && !(lnp_rate_factor(a, *index) < factor) &&
           !(lnp_rate_factor(a, *index) > factor))
        floats += p->weights[(*index)++].size;
    return floats;
}

/* A frozen weight has no gradient. */
static void lnp_zero_frozen(lensnet_adamw *a)
{
    const lensnet_parameters *p = a->parameters;
    size_t i;
    for (i = 0; i < p->count; i++)
        if (!(lnp_rate_factor(a, i) > 0))
            memset(p->gradients + p->weights[i].offset, 0, p->weights[i].size * sizeof(float));
}

/* One step over a run of tensors. */
typedef struct lnp_adamw_work {
    const lensnet_adamw *adamw;
    size_t offset, floats;
    int statistic; /* averaged, but not stepped */
    lnp_adamw_constants constants;
} lnp_adamw_work;

static void lnp_adamw_task(const void *context, size_t piece, size_t worker)
{
    const lnp_adamw_work *work = (const lnp_adamw_work *)context;
    const lensnet_adamw *a = work->adamw;
    const lensnet_parameters *p = a->parameters;
    const size_t at = work->offset + piece * LNP_PIECE;
    const size_t count = lnp_piece_floats(piece, work->floats);
    (void)worker;
    if (!work->statistic)
        lnp_adamw_update(&a->rows, p->values + at, a->first + at, a->second + at, p->gradients + at,
                         count, &work->constants);
    if (a->average)
        a->rows.average_towards(a->average + at, p->values + at,
                                (float)(1.0 - a->desc.average_decay), count);
}

typedef struct lnp_clipping {
    const lnp_row_kernels *kernels;
    float *gradients;
    size_t n;
    float scale;
} lnp_clipping;

static void lnp_clip_task(const void *context, size_t piece, size_t worker)
{
    const lnp_clipping *clip = (const lnp_clipping *)context;
    float *gradients = clip->gradients + piece * LNP_PIECE;
    (void)worker;
    clip->kernels->scale(gradients, gradients, clip->scale, lnp_piece_floats(piece, clip->n));
}

/* torch.nn.utils.clip_grad_norm_. */
static void lnp_clip(lensnet_adamw *a, double norm)
{
    const lensnet_parameters *p = a->parameters;
    const double scale = a->desc.clip_norm / (norm + 1e-6);
    lnp_clipping clip;
    if (a->desc.clip_norm <= 0 || scale >= 1) return;
    clip.kernels = &a->rows;
    clip.gradients = p->gradients;
    clip.n = p->size;
    clip.scale = (float)scale;
    lnp_team_run(&a->team, lnp_clip_task, &clip, lnp_piece_count(clip.n));
}

/* The update itself: decay, moments and weights of each run of tensors. */
static void lnp_adamw_update_all(lensnet_adamw *a, double learning_rate)
{
    lensnet_parameters *p = a->parameters;
    size_t i = 0, offset = 0;
    if (a->average && !a->steps) memcpy(a->average, p->values, p->size * sizeof(float));
    a->steps++;
    while (i < p->count) {
        const double decay = lnp_decays(a, &p->weights[i]) ? a->desc.weight_decay : 0.0;
        const double factor = lnp_rate_factor(a, i);
        lnp_adamw_work work;
        work.adamw = a;
        work.offset = offset;
        work.statistic = p->weights[i].statistic;
        work.floats = lnp_alike_run(a, &i);
        work.constants = lnp_adamw_constants_at(factor * learning_rate, decay, a->desc.beta1,
                                                a->desc.beta2, a->desc.epsilon, a->steps);
        if (factor > 0 || (work.statistic && a->average))
            lnp_team_run(&a->team, lnp_adamw_task, &work, lnp_piece_count(work.floats));
        offset += work.floats;
    }
    lensnet_parameters_changed(p);
}

static lensnet_result lnp_average_in_place(lensnet_error *error)
{
    return lnp_fail(error, LENSNET_ERROR_STATE,
                    "AdamW: the average stands in the place of the weights; call "
                    "lensnet_adamw_swap_average to bring them back first");
}

typedef struct lnp_adamw_pass {
    lensnet_adamw *adamw;
    double learning_rate, norm; /* of all gradients */
} lnp_adamw_pass;

static void lnp_adamw_step_pass(void *context)
{
    lnp_adamw_pass *pass = (lnp_adamw_pass *)context;
    lensnet_adamw *a = pass->adamw;
    const lensnet_parameters *p = a->parameters;
    pass->norm = sqrt(lnp_sum_of_squares(&a->rows, p->gradients, p->size, &a->team));
    if (!(pass->norm <= 1.7e308)) return;
    lnp_clip(a, pass->norm);
    lnp_adamw_update_all(a, pass->learning_rate);
}

lensnet_result lensnet_adamw_step(lensnet_adamw *a, double learning_rate, double *gradient_norm,
                                  lensnet_error *error)
{
    lnp_adamw_pass pass;
    double norm;
    uint64_t mode;
    if (!a || !(learning_rate >= 0) || learning_rate > 1e6)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "AdamW: NULL, or a learning rate outside 0 ... 1e6");
    if (a->swapped) return lnp_average_in_place(error);
    pass.adamw = a;
    pass.learning_rate = learning_rate;
    mode = lnp_mode_enter();
    lnp_zero_frozen(a);
    lnp_team_pass(&a->team, lnp_adamw_step_pass, &pass);
    lnp_mode_leave(mode);
    norm = pass.norm;
    if (gradient_norm) *gradient_norm = norm;
    if (norm <= 1.7e308) return LENSNET_OK;
    return lnp_fail(
        error, LENSNET_ERROR_NUMBER,
        "AdamW: the gradient is not finite; the step was not taken. A lower learning rate, a "
        "warm-up or clip_norm may help");
}

lensnet_result lensnet_adamw_swap_average(lensnet_adamw *a, lensnet_error *error)
{
    size_t i;
    if (!a || !a->average || !a->steps)
        return lnp_fail(
            error, LENSNET_ERROR_STATE,
            "AdamW: NULL, or no average is kept (average_decay 0), or no step was taken");
    for (i = 0; i < a->parameters->size; i++) {
        const float value = a->parameters->values[i];
        a->parameters->values[i] = a->average[i];
        a->average[i] = value;
    }
    a->swapped = !a->swapped;
    lensnet_parameters_changed(a->parameters);
    return LENSNET_OK;
}
/* =================================================================================================
 * >>figures  The code of the metrics. Everything about ranks comes from one form: the scores of the
 * positives and those of the negatives, each sorted, walked together from the largest score down in
 * groups of equal score.
 * ============================================================================================== */

static lensnet_result lnp_metrics_check(const char *what, const double *scores, const int *labels,
                                        size_t count, size_t classes, lensnet_error *error)
{
    size_t i, cells;
    if (!scores || !labels)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "%s: scores and labels must not be NULL",
                        what);
    if (!count || classes < 2 || classes > 0x7FFFFFFF || !lnp_multiply(count, classes, &cells))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "%s: at least 1 sample and 2 classes are needed, found %zu and %zu", what,
                        count, classes);
    for (i = 0; i < count; i++)
        if (labels[i] < 0 || (size_t)labels[i] >= classes)
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "%s: expected labels 0 to %zu, found %d for sample %zu", what,
                            classes - 1, labels[i], i);
    for (i = 0; i < cells; i++)
        if (!lnp_is_finite(scores[i]))
            return lnp_fail(error, LENSNET_ERROR_NUMBER,
                            "%s: the score of sample %zu, class %zu is %g; scores must be finite",
                            what, i / classes, i % classes, scores[i]);
    return LENSNET_OK;
}

static lensnet_result lnp_probabilities_check(const char *what, const double *scores, size_t count,
                                              size_t classes, lensnet_error *error)
{
    size_t i, k;
    for (i = 0; i < count; i++) {
        double sum = 0.0, smallest = 0.0;
        for (k = 0; k < classes; k++) {
            double score = scores[i * classes + k];
            sum += score;
            if (score < smallest) smallest = score;
        }
        if (smallest < 0.0 || !(fabs(sum - 1.0) <= 1e-5))
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "%s: expected probabilities, but the scores of sample %zu sum to %.9g "
                            "and the smallest is %g; apply a softmax first",
                            what, i, sum, smallest);
    }
    return LENSNET_OK;
}

/* -- ranks ------------------------------------------------------------------------------------- */

/* Both lists stand in one block of `capacity` scores, one from the front, one at the end; a second
 * block of that size serves the sort. */
typedef struct lnp_ranking {
    double *scores, *spare;
    size_t capacity;
    size_t positives, negatives;
} lnp_ranking;

static void lnp_merge(double *output, const double *left, size_t left_count, const double *right,
                      size_t right_count)
{
    size_t l = 0, r = 0;
    while (l < left_count && r < right_count)
        *output++ = left[l] >= right[r] ? left[l++] : right[r++];
    while (l < left_count) *output++ = left[l++];
    while (r < right_count) *output++ = right[r++];
}

/* merge sort, largest first */
static void lnp_sort_descending(double *values, double *spare, size_t count)
{
    double *from = values, *to = spare, *swap;
    size_t width, i;
    for (width = 1; width < count; width *= 2) {
        for (i = 0; i < count; i += 2 * width) {
            size_t left = lnp_min(width, count - i);
            size_t right = lnp_min(width, count - i - left);
            lnp_merge(to + i, from + i, left, from + i + left, right);
        }
        swap = from;
        from = to;
        to = swap;
        if (width > count / 2) break;
    }
    if (from != values) memcpy(values, from, count * sizeof *values);
}

static void lnp_ranking_clear(lnp_ranking *r) { r->positives = r->negatives = 0; }

static void lnp_ranking_add(lnp_ranking *r, double score, int positive)
{
    if (positive)
        r->scores[r->positives++] = score;
    else
        r->scores[r->capacity - ++r->negatives] = score;
}

static const double *lnp_ranking_negatives(const lnp_ranking *r)
{
    return r->scores + r->capacity - r->negatives;
}

static void lnp_ranking_sort(lnp_ranking *r)
{
    lnp_sort_descending(r->scores, r->spare, r->positives);
    lnp_sort_descending(r->scores + r->capacity - r->negatives, r->spare, r->negatives);
}

/* class k against the rest */
static void lnp_rank_class(lnp_ranking *r, const double *scores, const int *labels, size_t count,
                           size_t classes, size_t k)
{
    size_t i;
    lnp_ranking_clear(r);
    for (i = 0; i < count; i++) lnp_ranking_add(r, scores[i * classes + k], (size_t)labels[i] == k);
    lnp_ranking_sort(r);
}

/* class k against class `other`, by the score of k */
static void lnp_rank_pair(lnp_ranking *r, const double *scores, const int *labels, size_t count,
                          size_t classes, size_t k, size_t other)
{
    size_t i;
    lnp_ranking_clear(r);
    for (i = 0; i < count; i++) {
        size_t label = (size_t)labels[i];
        if (label == k || label == other) lnp_ranking_add(r, scores[i * classes + k], label == k);
    }
    lnp_ranking_sort(r);
}

static void lnp_rank_all(lnp_ranking *r, const double *scores, const int *labels, size_t count,
                         size_t classes)
{
    size_t i, k;
    lnp_ranking_clear(r);
    for (i = 0; i < count; i++)
        for (k = 0; k < classes; k++)
            lnp_ranking_add(r, scores[i * classes + k], (size_t)labels[i] == k);
    lnp_ranking_sort(r);
}

/* A walk: how many positives and negatives have a score of at least `score`. */
typedef struct lnp_walk {
    size_t positives, negatives;
    double score;
} lnp_walk;

/* on to the next smaller score that occurs; 0 at the end */
static int lnp_walk_step(lnp_walk *w, const lnp_ranking *r)
{
    const double *positive = r->scores, *negative = lnp_ranking_negatives(r);
    int more_positives = w->positives < r->positives;
    int more_negatives = w->negatives < r->negatives;
    if (!more_positives && !more_negatives) return 0;
    if (!more_negatives || (more_positives && positive[w->positives] >= negative[w->negatives]))
        w->score = positive[w->positives];
    else
        w->score = negative[w->negatives];
    while (w->positives < r->positives && positive[w->positives] == w->score) w->positives++;
    while (w->negatives < r->negatives && negative[w->negatives] == w->score) w->negatives++;
    return 1;
}

/* (pairs in which the positive has the larger score + half the ties) / pairs */
static double lnp_ranking_auc(const lnp_ranking *r)
{
    lnp_walk walk = {0, 0, 0.0};
    uint64_t halves = 0;
    size_t positives = 0, negatives = 0;
    if (!r->positives || !r->negatives) return lnp_nan();
    while (lnp_walk_step(&walk, r)) {
        uint64_t lower = r->negatives - walk.negatives, equal = walk.negatives - negatives;
        halves += (uint64_t)(walk.positives - positives) * (2 * lower + equal);
        positives = walk.positives;
        negatives = walk.negatives;
    }
    return (double)halves / (2.0 * (double)r->positives * (double)r->negatives);
}

/* sum of (recall - recall before) * precision */
static double lnp_ranking_average_precision(const lnp_ranking *r)
{
    lnp_walk walk = {0, 0, 0.0};
    size_t positives = 0;
    double sum = 0.0;
    if (!r->positives) return lnp_nan();
    while (lnp_walk_step(&walk, r)) {
        double precision =
            (double)walk.positives / ((double)walk.positives + (double)walk.negatives);
        sum += (double)(walk.positives - positives) * precision;
        positives = walk.positives;
    }
    return sum / (double)r->positives;
}

static lensnet_result lnp_ranking_create(lnp_ranking *r, size_t capacity, const lensnet_host *host,
                                         lensnet_error *error)
{
    size_t bytes;
    r->capacity = capacity;
    r->scores = NULL;
    if (lnp_multiply(capacity, 2 * sizeof(double), &bytes))
        r->scores = (double *)lnp_allocate(host, bytes);
    if (!r->scores)
        return lnp_fail(error, LENSNET_ERROR_MEMORY,
                        "metrics: no memory to sort %zu scores (16 bytes each)", capacity);
    r->spare = r->scores + capacity;
    return LENSNET_OK;
}

static void lnp_ranking_destroy(lnp_ranking *r, const lensnet_host *host)
{
    lnp_release(host, r->scores, r->capacity * 2 * sizeof(double));
}

/* -- ROC curves -------------------------------------------------------------------------------- */

static lensnet_result lnp_roc_create(lensnet_roc *roc, size_t points, const lensnet_host *host,
                                     lensnet_error *error)
{
    size_t bytes;
    double *block = NULL;
    if (lnp_multiply(points, 3 * sizeof(double), &bytes))
        block = (double *)lnp_allocate(host, bytes);
    if (!block)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "ROC: no memory for a curve of %zu points",
                        points);
    roc->points = points;
    roc->false_positive_rate = block;
    roc->true_positive_rate = block + points;
    roc->threshold = block + 2 * points;
    roc->auc = lnp_nan();
    roc->host = *host;
    roc->bytes = bytes;
    return LENSNET_OK;
}

void lensnet_roc_release(lensnet_roc *roc)
{
    if (!roc) return;
    if (roc->false_positive_rate) lnp_release(&roc->host, roc->false_positive_rate, roc->bytes);
    memset(roc, 0, sizeof *roc);
}

/* does `here` lie in the middle of equal steps, so that the curve is the same without it? */
static int lnp_walk_is_straight(const lnp_walk *before, const lnp_walk *here, const lnp_walk *after)
{
    return here->positives - before->positives == after->positives - here->positives &&
           here->negatives - before->negatives == after->negatives - here->negatives;
}

/* Goes through the points that the curve keeps (the origin not counted); writes them where `roc` is
 * not NULL, and returns their number. */
static size_t lnp_roc_points(lensnet_roc *roc, const lnp_ranking *r, int drop)
{
    lnp_walk before = {0, 0, 0.0}, here = {0, 0, 0.0}, after = {0, 0, 0.0};
    size_t points = 0, position = 0;
    int more = lnp_walk_step(&after, r);
    while (more) {
        before = here;
        here = after;
        position++;
        more = lnp_walk_step(&after, r);
        /* the first and the last group always stay */
        if (drop && position > 1 && more && lnp_walk_is_straight(&before, &here, &after)) continue;
        points++;
        if (!roc) continue;
        roc->false_positive_rate[points] =
            r->negatives ? (double)here.negatives / (double)r->negatives : lnp_nan();
        roc->true_positive_rate[points] =
            r->positives ? (double)here.positives / (double)r->positives : lnp_nan();
        roc->threshold[points] = here.score;
    }
    return points;
}

static lensnet_result lnp_roc_of_ranking(lensnet_roc *roc, const lnp_ranking *r, int drop,
                                         const lensnet_host *host, lensnet_error *error)
{
    lensnet_result result = lnp_roc_create(roc, lnp_roc_points(NULL, r, drop) + 1, host, error);
    if (result) return result;
    lnp_roc_points(roc, r, drop);
    roc->false_positive_rate[0] = r->negatives ? 0.0 : lnp_nan();
    roc->true_positive_rate[0] = r->positives ? 0.0 : lnp_nan();
    roc->threshold[0] = lnp_infinity();
    roc->auc = lnp_ranking_auc(r);
    return LENSNET_OK;
}

/* The curve's height at `x`: the highest of the points at x, else linear between neighbours. `at`
 * remembers the place, for x that ascend. */
static double lnp_roc_height(const lensnet_roc *roc, double x, size_t *at)
{
    const double *fpr = roc->false_positive_rate, *tpr = roc->true_positive_rate;
    size_t i = *at;
    while (i + 1 < roc->points && fpr[i + 1] <= x) i++;
    *at = i;
    if (i + 1 == roc->points || fpr[i] == x) return tpr[i];
    return tpr[i] + (tpr[i + 1] - tpr[i]) / (fpr[i + 1] - fpr[i]) * (x - fpr[i]);
}

static double lnp_roc_area(const lensnet_roc *roc)
{
    double sum = 0.0;
    size_t i;
    for (i = 1; i < roc->points; i++)
        sum += (roc->false_positive_rate[i] - roc->false_positive_rate[i - 1]) *
               (roc->true_positive_rate[i] + roc->true_positive_rate[i - 1]) / 2.0;
    return sum;
}

/* Adds the class curve to the mean, whose grid stands already. */
static void lnp_roc_accumulate(lensnet_roc *mean, const lensnet_roc *curve)
{
    size_t i, at = 0;
    for (i = 0; i < mean->points; i++)
        mean->true_positive_rate[i] += lnp_roc_height(curve, mean->false_positive_rate[i], &at);
}

/* ascending and without duplicates: the false positive rates of all curves that are defined */
static size_t lnp_roc_grid(double *grid, double *spare, const lensnet_roc *curves, size_t classes)
{
    size_t count = 0, unique = 0, i, k;
    for (k = 0; k < classes; k++) {
        if (curves[k].auc != curves[k].auc) continue;
        for (i = 0; i < curves[k].points; i++) grid[count++] = -curves[k].false_positive_rate[i];
    }
    lnp_sort_descending(grid, spare, count);
    for (i = 0; i < count; i++)
        if (!unique || -grid[i] > grid[unique - 1]) grid[unique++] = -grid[i];
    return unique;
}

static lensnet_result lnp_roc_mean(lensnet_roc *roc, const lensnet_roc *curves, size_t classes,
                                   const lensnet_host *host, lensnet_error *error)
{
    lnp_ranking grid; /* two blocks, as for a ranking */
    size_t total = 0, defined = 0, points, i, k;
    lensnet_result result;
    for (k = 0; k < classes; k++) {
        if (curves[k].auc != curves[k].auc) continue;
        total += curves[k].points;
        defined++;
    }
    if (!defined)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "ROC: the macro average needs a class with samples and samples of others, "
                        "but all samples are of one class");
    result = lnp_ranking_create(&grid, total, host, error);
    if (result) return result;
    points = lnp_roc_grid(grid.scores, grid.spare, curves, classes);
    result = lnp_roc_create(roc, points, host, error);
    if (!result) {
        memcpy(roc->false_positive_rate, grid.scores, points * sizeof(double));
        for (i = 0; i < points; i++) {
            roc->true_positive_rate[i] = 0.0;
            roc->threshold[i] = lnp_nan();
        }
        for (k = 0; k < classes; k++)
            if (curves[k].auc == curves[k].auc) lnp_roc_accumulate(roc, &curves[k]);
        for (i = 0; i < points; i++) roc->true_positive_rate[i] /= (double)defined;
        roc->auc = lnp_roc_area(roc);
    }
    lnp_ranking_destroy(&grid, host);
    return result;
}

static lensnet_result lnp_roc_macro(lensnet_roc *roc, lnp_ranking *ranking, const double *scores,
                                    const int *labels, size_t count, size_t classes,
                                    const lensnet_host *host, lensnet_error *error)
{
    size_t bytes, k;
    lensnet_roc *curves = NULL;
    lensnet_result result = LENSNET_OK;
    if (lnp_multiply(classes, sizeof *curves, &bytes))
        curves = (lensnet_roc *)lnp_allocate(host, bytes);
    if (!curves)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "ROC: no memory for the class curves");
    memset(curves, 0, bytes);
    for (k = 0; k < classes && !result; k++) {
        lnp_rank_class(ranking, scores, labels, count, classes, k);
        result = lnp_roc_of_ranking(&curves[k], ranking, 1, host, error);
    }
    if (!result) result = lnp_roc_mean(roc, curves, classes, host, error);
    for (k = 0; k < classes; k++) lensnet_roc_release(&curves[k]);
    lnp_release(host, curves, bytes);
    return result;
}

lensnet_result lensnet_roc_curve(lensnet_roc *roc, const double *scores, const int *labels,
                                 size_t count, size_t classes, int which, int drop_intermediate,
                                 const lensnet_host *host, lensnet_error *error)
{
    lensnet_host defaults = lensnet_host_defaults();
    lnp_ranking ranking;
    lensnet_result result = lnp_metrics_check("ROC", scores, labels, count, classes, error);
    if (result) return result;
    if (!roc || which < LENSNET_ROC_MACRO || (which >= 0 && (size_t)which >= classes))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "ROC: expected a class of 0 to %zu, LENSNET_ROC_MICRO or "
                        "LENSNET_ROC_MACRO, found %d",
                        classes - 1, which);
    if (!host) host = &defaults;
    result = lnp_ranking_create(&ranking, which == LENSNET_ROC_MICRO ? count * classes : count,
                                host, error);
    if (result) return result;
    if (which == LENSNET_ROC_MACRO) {
        result = lnp_roc_macro(roc, &ranking, scores, labels, count, classes, host, error);
    } else {
        if (which == LENSNET_ROC_MICRO)
            lnp_rank_all(&ranking, scores, labels, count, classes);
        else
            lnp_rank_class(&ranking, scores, labels, count, classes, (size_t)which);
        result = lnp_roc_of_ranking(roc, &ranking, drop_intermediate, host, error);
    }
    lnp_ranking_destroy(&ranking, host);
    return result;
}

lensnet_result lensnet_roc_binary(lensnet_roc *roc, const double *scores, const int *positive,
                                  size_t count, int drop_intermediate, const lensnet_host *host,
                                  lensnet_error *error)
{
    lensnet_host defaults = lensnet_host_defaults();
    lnp_ranking ranking;
    lensnet_result result;
    size_t i;
    if (!roc || !scores || !positive || !count)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "ROC: at least one sample is needed, and nothing may be NULL");
    for (i = 0; i < count; i++)
        if (!lnp_is_finite(scores[i]))
            return lnp_fail(error, LENSNET_ERROR_NUMBER,
                            "ROC: the score of sample %zu is %g; scores must be finite", i,
                            scores[i]);
    if (!host) host = &defaults;
    result = lnp_ranking_create(&ranking, count, host, error);
    if (result) return result;
    lnp_ranking_clear(&ranking);
    for (i = 0; i < count; i++) lnp_ranking_add(&ranking, scores[i], positive[i] != 0);
    lnp_ranking_sort(&ranking);
    result = lnp_roc_of_ranking(roc, &ranking, drop_intermediate, host, error);
    lnp_ranking_destroy(&ranking, host);
    return result;
}

/* -- decisions --------------------------------------------------------------------------------- */

static size_t lnp_largest(const double *row, size_t classes)
{
    size_t best = 0, k;
    for (k = 1; k < classes; k++)
        if (row[k] > row[best]) best = k;
    return best;
}

void lensnet_predicted_classes(int *predictions, const double *scores, size_t count, size_t classes)
{
    size_t i;
    for (i = 0; i < count; i++) predictions[i] = (int)lnp_largest(scores + i * classes, classes);
}

lensnet_result lensnet_confusion_matrix(size_t *matrix, const int *labels, const int *predictions,
                                        size_t count, size_t classes, lensnet_error *error)
{
    size_t i;
    if (!matrix || !labels || !predictions)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "confusion matrix: matrix, labels and predictions must not be NULL");
    for (i = 0; i < count; i++)
        if (labels[i] < 0 || (size_t)labels[i] >= classes || predictions[i] < 0 ||
            (size_t)predictions[i] >= classes)
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "confusion matrix: expected classes below %zu, found label %d and "
                            "prediction %d for sample %zu",
                            classes, labels[i], predictions[i], i);
    memset(matrix, 0, classes * classes * sizeof *matrix);
    for (i = 0; i < count; i++) matrix[(size_t)labels[i] * classes + (size_t)predictions[i]]++;
    return LENSNET_OK;
}

static size_t lnp_matrix_row_sum(const size_t *matrix, size_t classes, size_t row)
{
    size_t sum = 0, k;
    for (k = 0; k < classes; k++) sum += matrix[row * classes + k];
    return sum;
}

static size_t lnp_matrix_column_sum(const size_t *matrix, size_t classes, size_t column)
{
    size_t sum = 0, k;
    for (k = 0; k < classes; k++) sum += matrix[k * classes + column];
    return sum;
}

/* 0/0 is `otherwise` */
static double lnp_ratio(size_t part, size_t whole, double otherwise)
{
    return whole ? (double)part / (double)whole : otherwise;
}

lensnet_result lensnet_confusion_shares(double *shares, const size_t *matrix, size_t classes,
                                        lensnet_share share, lensnet_error *error)
{
    size_t row, column, all = 0;
    if (!shares || !matrix || (int)share < 0 || share > LENSNET_SHARE_OF_ALL)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "confusion shares: no NULL and one of lensnet_share is expected, found %d",
                        (int)share);
    for (row = 0; row < classes; row++) all += lnp_matrix_row_sum(matrix, classes, row);
    for (row = 0; row < classes; row++) {
        size_t row_sum = lnp_matrix_row_sum(matrix, classes, row);
        for (column = 0; column < classes; column++) {
            size_t whole = share == LENSNET_SHARE_OF_TRUE ? row_sum : all;
            if (share == LENSNET_SHARE_OF_PREDICTED)
                whole = lnp_matrix_column_sum(matrix, classes, column);
            shares[row * classes + column] = lnp_ratio(matrix[row * classes + column], whole, 0.0);
        }
    }
    return LENSNET_OK;
}

static double lnp_f1(double precision, double recall)
{
    double sum = precision + recall;
    return sum == 0.0 ? 0.0 : 2.0 * precision * recall / sum;
}

/* -- classification report --------------------------------------------------------------------- */

/* Text that grows up to a capacity and counts on beyond it. */
typedef struct lnp_sheet {
    char *bytes;
    size_t capacity, length;
} lnp_sheet;

static void lnp_sheet_add(lnp_sheet *sheet, const char *more)
{
    for (; *more; more++, sheet->length++)
        if (sheet->length < sheet->capacity) sheet->bytes[sheet->length] = *more;
}

static size_t lnp_sheet_width(const char *utf8)
{
    size_t width = 0;
    for (; *utf8; utf8++) width += ((unsigned char)*utf8 & 0xC0) != 0x80;
    return width;
}

/* right-aligned in `width` columns */
static void lnp_sheet_cell(lnp_sheet *sheet, const char *cell, size_t width)
{
    size_t used;
    for (used = lnp_sheet_width(cell); used < width; used++) lnp_sheet_add(sheet, " ");
    lnp_sheet_add(sheet, cell);
}

/* " %9.*f" in the C locale, whichever the host has set */
static void lnp_sheet_number(lnp_sheet *sheet, double value, int digits)
{
    char cell[64];
    char *c;
    snprintf(cell, sizeof cell, "%.*f", digits, value);
    for (c = cell; *c; c++)
        if (*c == ',') *c = '.';
    lnp_sheet_add(sheet, " ");
    lnp_sheet_cell(sheet, cell, 9);
}

static void lnp_sheet_count(lnp_sheet *sheet, size_t value)
{
    char cell[32];
    snprintf(cell, sizeof cell, "%zu", value);
    lnp_sheet_add(sheet, " ");
    lnp_sheet_cell(sheet, cell, 9);
    lnp_sheet_add(sheet, "\n");
}

typedef struct lnp_tally {
    size_t support, predicted, correct;
} lnp_tally;

static lnp_tally lnp_tally_class(const int *labels, const int *predictions, size_t count, size_t k)
{
    lnp_tally tally = {0, 0, 0};
    size_t i;
    for (i = 0; i < count; i++) {
        int is_label = (size_t)labels[i] == k, is_predicted = (size_t)predictions[i] == k;
        tally.support += (size_t)is_label;
        tally.predicted += (size_t)is_predicted;
        tally.correct += (size_t)(is_label & is_predicted);
    }
    return tally;
}

static lensnet_averages lnp_tally_scores(const lnp_tally *tally, double zero_division)
{
    lensnet_averages scores;
    scores.precision = lnp_ratio(tally->correct, tally->predicted, zero_division);
    scores.recall = lnp_ratio(tally->correct, tally->support, zero_division);
    scores.f1 = lnp_f1(scores.precision, scores.recall);
    return scores;
}

static void lnp_averages_add(lensnet_averages *sum, const lensnet_averages *more, double weight)
{
    sum->precision += weight * more->precision;
    sum->recall += weight * more->recall;
    sum->f1 += weight * more->f1;
}

static void lnp_averages_divide(lensnet_averages *sum, double by)
{
    sum->precision /= by;
    sum->recall /= by;
    sum->f1 /= by;
}

typedef struct lnp_report {
    lnp_sheet sheet;
    size_t width; /* of the names' column */
    int digits;
} lnp_report;

static void lnp_report_row(lnp_report *report, const char *name, const lensnet_averages *scores,
                           size_t support)
{
    lnp_sheet_cell(&report->sheet, name, report->width);
    lnp_sheet_add(&report->sheet, " ");
    lnp_sheet_number(&report->sheet, scores->precision, report->digits);
    lnp_sheet_number(&report->sheet, scores->recall, report->digits);
    lnp_sheet_number(&report->sheet, scores->f1, report->digits);
    lnp_sheet_count(&report->sheet, support);
}

static void lnp_report_accuracy(lnp_report *report, double accuracy, size_t support)
{
    lnp_sheet_cell(&report->sheet, "accuracy", report->width);
    lnp_sheet_cell(&report->sheet, "", 21);
    lnp_sheet_number(&report->sheet, accuracy, report->digits);
    lnp_sheet_count(&report->sheet, support);
}

static void lnp_report_header(lnp_report *report)
{
    static const char *const columns[4] = {"precision", "recall", "f1-score", "support"};
    int i;
    lnp_sheet_cell(&report->sheet, "", report->width + 1);
    for (i = 0; i < 4; i++) {
        lnp_sheet_add(&report->sheet, " ");
        lnp_sheet_cell(&report->sheet, columns[i], 9);
    }
    lnp_sheet_add(&report->sheet, "\n\n");
}

/* whether the classes that occur are exactly those of the rows */
static int lnp_report_is_complete(const int *labels, const int *predictions, size_t count,
                                  size_t classes)
{
    size_t i, k;
    for (i = 0; i < count; i++)
        if ((size_t)labels[i] >= classes || (size_t)predictions[i] >= classes) return 0;
    for (k = 0; k < classes; k++) {
        lnp_tally tally = lnp_tally_class(labels, predictions, count, k);
        if (!tally.support && !tally.predicted) return 0;
    }
    return 1;
}

static void lnp_report_write(lnp_report *report, const int *labels, const int *predictions,
                             size_t count, const char *const *names, size_t classes,
                             double zero_division)
{
    lensnet_averages macro = {0.0, 0.0, 0.0}, weighted = {0.0, 0.0, 0.0}, micro;
    lnp_tally total = {0, 0, 0};
    size_t k;
    lnp_report_header(report);
    for (k = 0; k < classes; k++) {
        lnp_tally tally = lnp_tally_class(labels, predictions, count, k);
        lensnet_averages scores = lnp_tally_scores(&tally, zero_division);
        lnp_report_row(report, names[k], &scores, tally.support);
        lnp_averages_add(&macro, &scores, 1.0);
        lnp_averages_add(&weighted, &scores, (double)tally.support);
        total.support += tally.support;
        total.predicted += tally.predicted;
        total.correct += tally.correct;
    }
    micro = lnp_tally_scores(&total, zero_division);
    lnp_averages_divide(&macro, (double)classes);
    if (total.support) {
        lnp_averages_divide(&weighted, (double)total.support);
    } else { /* scikit-learn's rule where no weight is left */
        weighted.recall = zero_division;
        weighted.precision = weighted.f1 = total.predicted ? 0.0 : zero_division;
    }
    lnp_sheet_add(&report->sheet, "\n");
    if (lnp_report_is_complete(labels, predictions, count, classes))
        lnp_report_accuracy(report, micro.f1, total.support);
    else
        lnp_report_row(report, "micro avg", &micro, total.support);
    lnp_report_row(report, "macro avg", &macro, total.support);
    lnp_report_row(report, "weighted avg", &weighted, total.support);
}

static lensnet_result lnp_report_check(const int *labels, const int *predictions, size_t count,
                                       const char *const *names, size_t classes, int digits,
                                       int zero_division, lensnet_error *error)
{
    size_t i;
    if (!labels || !predictions || !names || !count || !classes)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "classification report: at least one sample and one class are needed, and "
                        "labels, predictions and names must not be NULL");
    if (digits < 0 || digits > 15 || (zero_division != 0 && zero_division != 1))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "classification report: expected 0 to 15 digits and a zero division of 0 "
                        "or 1, found %d and %d",
                        digits, zero_division);
    for (i = 0; i < classes; i++)
        if (!names[i])
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "classification report: class %zu has no name", i);
    for (i = 0; i < count; i++)
        if (labels[i] < 0 || predictions[i] < 0)
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                            "classification report: label %d and prediction %d of sample %zu must "
                            "not be negative",
                            labels[i], predictions[i], i);
    return LENSNET_OK;
}

lensnet_result lensnet_classification_report(char *text, size_t capacity, size_t *length,
                                             const int *labels, const int *predictions,
                                             size_t count, const char *const *names, size_t classes,
                                             int digits, int zero_division, lensnet_error *error)
{
    lnp_report report;
    size_t k;
    lensnet_result result =
        lnp_report_check(labels, predictions, count, names, classes, digits, zero_division, error);
    if (result) return result;
    report.sheet.bytes = text;
    report.sheet.capacity = text ? capacity : 0;
    report.sheet.length = 0;
    report.digits = digits;
    report.width = lnp_max(strlen("weighted avg"), (size_t)digits);
    for (k = 0; k < classes; k++) report.width = lnp_max(report.width, lnp_sheet_width(names[k]));
    lnp_report_write(&report, labels, predictions, count, names, classes, (double)zero_division);
    if (length) *length = report.sheet.length;
    if (!text) return LENSNET_OK;
    if (report.sheet.length >= capacity) {
        if (capacity) text[0] = 0;
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "classification report: %zu bytes are needed, but there is room for %zu",
                        report.sheet.length + 1, capacity);
    }
    text[report.sheet.length] = 0;
    return LENSNET_OK;
}

/* -- calibration ------------------------------------------------------------------------------- */

/* the bin (b / B, (b + 1) / B] that holds `confidence`; 0 and less fall into the first */
static size_t lnp_calibration_bin(double confidence, size_t bins)
{
    double guess = floor(confidence * (double)bins);
    size_t b = guess <= 0.0 ? 0 : guess >= (double)bins ? bins - 1 : (size_t)guess;
    while (b > 0 && confidence <= (double)b / (double)bins) b--;
    while (b + 1 < bins && confidence > (double)(b + 1) / (double)bins) b++;
    return b;
}

/* bins hold sums on the way, means at the end */
static void lnp_calibration_fill(lensnet_calibration_bin *bins, const double *scores,
                                 const int *labels, size_t count, size_t classes, size_t bin_count)
{
    size_t i, b;
    memset(bins, 0, bin_count * sizeof *bins);
    for (i = 0; i < count; i++) {
        const double *row = scores + i * classes;
        size_t best = lnp_largest(row, classes);
        lensnet_calibration_bin *bin = &bins[lnp_calibration_bin(row[best], bin_count)];
        bin->count++;
        bin->accuracy += (double)((size_t)labels[i] == best);
        bin->confidence += row[best];
    }
    for (b = 0; b < bin_count; b++) {
        if (!bins[b].count) continue;
        bins[b].accuracy /= (double)bins[b].count;
        bins[b].confidence /= (double)bins[b].count;
    }
}

static void lnp_calibration_errors(double *ece, double *mce, const lensnet_calibration_bin *bins,
                                   size_t count, size_t bin_count)
{
    double sum = 0.0, worst = 0.0;
    size_t b;
    for (b = 0; b < bin_count; b++) {
        double gap = fabs(bins[b].accuracy - bins[b].confidence);
        sum += (double)bins[b].count / (double)count * gap;
        if (gap > worst) worst = gap;
    }
    if (ece) *ece = sum;
    if (mce) *mce = worst;
}

lensnet_result lensnet_calibration(lensnet_calibration_bin *bins, double *ece, double *mce,
                                   const double *scores, const int *labels, size_t count,
                                   size_t classes, size_t bin_count, lensnet_error *error)
{
    lensnet_result result = lnp_metrics_check("calibration", scores, labels, count, classes, error);
    if (!result) result = lnp_probabilities_check("calibration", scores, count, classes, error);
    if (result) return result;
    if (!bins || !bin_count)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "calibration: at least one bin is needed");
    lnp_calibration_fill(bins, scores, labels, count, classes, bin_count);
    lnp_calibration_errors(ece, mce, bins, count, bin_count);
    return LENSNET_OK;
}

/* One row's softmax(beta * logits): cross-entropy and its two derivatives by beta, which are
 * mean(z) - z_label and variance(z) under that softmax. */
typedef struct lnp_row_loss {
    double loss, slope, curvature;
} lnp_row_loss;

static lnp_row_loss lnp_temperature_row(const double *logits, size_t classes, size_t label,
                                        double beta)
{
    double largest = logits[lnp_largest(logits, classes)];
    double weights = 0.0, mean = 0.0, square = 0.0;
    lnp_row_loss row;
    size_t k;
    for (k = 0; k < classes; k++) {
        double z = logits[k] - largest; /* <= 0 */
        double weight = lensnet_exp(beta * z);
        weights += weight;
        mean += weight * z;
    }
    mean /= weights;
    for (k = 0; k < classes; k++) {
        double z = logits[k] - largest;
        square += lensnet_exp(beta * z) * (z - mean) * (z - mean);
    }
    row.loss = lensnet_log(weights) - beta * (logits[label] - largest);
    row.slope = mean - (logits[label] - largest);
    row.curvature = square / weights;
    return row;
}

static lnp_row_loss lnp_temperature_mean(const double *logits, const int *labels, size_t count,
                                         size_t classes, double beta)
{
    lnp_row_loss mean = {0.0, 0.0, 0.0};
    size_t i;
    for (i = 0; i < count; i++) {
        lnp_row_loss row =
            lnp_temperature_row(logits + i * classes, classes, (size_t)labels[i], beta);
        mean.loss += row.loss;
        mean.slope += row.slope;
        mean.curvature += row.curvature;
    }
    mean.loss /= (double)count;
    mean.slope /= (double)count;
    mean.curvature /= (double)count;
    return mean;
}

double lensnet_temperature_loss(const double *logits, const int *labels, size_t count,
                                size_t classes, double temperature)
{
    return lnp_temperature_mean(logits, labels, count, classes, 1.0 / temperature).loss;
}

lensnet_result lensnet_temperature_fit(double *temperature, const double *logits, const int *labels,
                                       size_t count, size_t classes, lensnet_error *error)
{
    double low = 1e-3, high = 1e3, beta = 1.0;
    int i;
    lensnet_result result = lnp_metrics_check("temperature", logits, labels, count, classes, error);
    if (result) return result;
    if (!temperature)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "temperature: the place for the result must not be NULL");
    for (i = 0; i < 200 && high - low > 1e-13 * high; i++) {
        lnp_row_loss mean = lnp_temperature_mean(logits, labels, count, classes, beta);
        double next = beta - mean.slope / mean.curvature; /* 0/0 where all logits are equal */
        if (mean.slope == 0.0) break;
        if (mean.slope > 0.0)
            high = beta;
        else
            low = beta;
        if (!(next > low && next < high)) next = sqrt(low * high);
        if (fabs(next - beta) <= 1e-13 * beta) break;
        beta = next;
    }
    *temperature = 1.0 / beta;
    return LENSNET_OK;
}

/* -- the summary ------------------------------------------------------------------------------- */

static void lnp_metrics_decisions(lensnet_metrics *m)
{
    lensnet_averages none = {0.0, 0.0, 0.0};
    double count = (double)m->count, chance = 0.0, predicted_squares = 0.0, true_squares = 0.0;
    double correct = 0.0, spread;
    size_t k;
    m->macro = m->weighted = none;
    for (k = 0; k < m->classes; k++) {
        lensnet_class_metrics *c = &m->per_class[k];
        lnp_tally tally;
        lensnet_averages scores;
        tally.support = c->support = lnp_matrix_row_sum(m->confusion, m->classes, k);
        tally.predicted = c->predicted = lnp_matrix_column_sum(m->confusion, m->classes, k);
        tally.correct = c->correct = m->confusion[k * m->classes + k];
        scores = lnp_tally_scores(&tally, 0.0);
        c->precision = scores.precision;
        c->recall = scores.recall;
        c->f1 = scores.f1;
        lnp_averages_add(&m->macro, &scores, 1.0);
        lnp_averages_add(&m->weighted, &scores, (double)c->support);
        m->present += c->support > 0;
        m->balanced_accuracy += c->support ? c->recall : 0.0;
        correct += (double)c->correct;
        chance += (double)c->support * (double)c->predicted;
        predicted_squares += (double)c->predicted * (double)c->predicted;
        true_squares += (double)c->support * (double)c->support;
    }
    lnp_averages_divide(&m->macro, (double)m->classes);
    lnp_averages_divide(&m->weighted, count);
    m->balanced_accuracy /= (double)m->present;
    m->accuracy = correct / count;
    spread = (count * count - predicted_squares) * (count * count - true_squares);
    m->mcc = spread > 0.0 ? (correct * count - chance) / sqrt(spread) : 0.0;
    m->kappa = (correct * count - chance) / (count * count - chance);
}

/* log loss and Brier scores */
static void lnp_metrics_distances(lensnet_metrics *m, const double *scores, const int *labels)
{
    const double epsilon = 2.220446049250313e-16;
    size_t i, k;
    for (i = 0; i < m->count; i++) {
        const double *row = scores + i * m->classes;
        size_t label = (size_t)labels[i];
        double sum = 0.0, own = 0.0;
        for (k = 0; k < m->classes; k++) {
            double distance = row[k] - (k == label ? 1.0 : 0.0);
            double clipped = row[k] < epsilon ? epsilon : row[k];
            if (clipped > 1.0 - epsilon) clipped = 1.0 - epsilon;
            sum += clipped;
            if (k == label) own = clipped;
            m->per_class[k].brier += distance * distance;
        }
        m->log_loss -= lensnet_log(own / sum);
    }
    m->log_loss /= (double)m->count;
    for (k = 0; k < m->classes; k++) {
        m->per_class[k].brier /= (double)m->count;
        m->brier += m->per_class[k].brier;
    }
}

static void lnp_metrics_one_versus_rest(lensnet_metrics *m, lnp_ranking *ranking,
                                        const double *scores, const int *labels)
{
    double defined = 0.0, defined_sum = 0.0, sum = 0.0, weighted = 0.0;
    size_t k;
    for (k = 0; k < m->classes; k++) {
        lensnet_class_metrics *c = &m->per_class[k];
        lnp_rank_class(ranking, scores, labels, m->count, m->classes, k);
        c->auc = lnp_ranking_auc(ranking);
        c->average_precision = lnp_ranking_average_precision(ranking);
        sum += c->auc;
        weighted += c->auc * (double)c->support;
        if (c->auc != c->auc) continue;
        defined += 1.0;
        defined_sum += c->auc;
    }
    m->auc_ovr_macro = sum / (double)m->classes;
    m->auc_ovr_weighted = weighted / (double)m->count;
    m->auc_ovr_present = defined > 0.0 ? defined_sum / defined : lnp_nan();
    lnp_rank_all(ranking, scores, labels, m->count, m->classes);
    m->auc_ovr_micro = lnp_ranking_auc(ranking);
}

static void lnp_metrics_one_versus_one(lensnet_metrics *m, lnp_ranking *ranking,
                                       const double *scores, const int *labels)
{
    double pairs = 0.0, sum = 0.0, weights = 0.0, weighted = 0.0;
    size_t i, j;
    for (i = 0; i < m->classes; i++) {
        for (j = i + 1; j < m->classes; j++) {
            double weight = (double)m->per_class[i].support + (double)m->per_class[j].support;
            double auc;
            if (!m->per_class[i].support || !m->per_class[j].support) continue;
            lnp_rank_pair(ranking, scores, labels, m->count, m->classes, i, j);
            auc = 0.5 * lnp_ranking_auc(ranking);
            lnp_rank_pair(ranking, scores, labels, m->count, m->classes, j, i);
            auc += 0.5 * lnp_ranking_auc(ranking);
            pairs += 1.0;
            sum += auc;
            weights += weight;
            weighted += weight * auc;
        }
    }
    m->auc_ovo_macro = pairs > 0.0 ? sum / pairs : lnp_nan();
    m->auc_ovo_weighted = pairs > 0.0 ? weighted / weights : lnp_nan();
}

/* per_class and confusion in one block */
static lensnet_result lnp_metrics_create(lensnet_metrics *m, size_t count, size_t classes,
                                         const lensnet_host *host, lensnet_error *error)
{
    size_t records, cells, bytes;
    void *block = NULL;
    memset(m, 0, sizeof *m);
    if (lnp_multiply(classes, sizeof *m->per_class, &records) &&
        lnp_multiply(classes, classes, &cells) &&
        lnp_multiply(cells, sizeof *m->confusion, &cells) && lnp_sum(records, cells, &bytes))
        block = lnp_allocate(host, bytes);
    if (!block)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "metrics: no memory for %zu classes", classes);
    memset(block, 0, bytes);
    m->count = count;
    m->classes = classes;
    m->per_class = (lensnet_class_metrics *)block;
    m->confusion = (size_t *)(void *)(m->per_class + classes);
    m->host = *host;
    m->bytes = bytes;
    return LENSNET_OK;
}

void lensnet_metrics_release(lensnet_metrics *metrics)
{
    if (!metrics) return;
    if (metrics->per_class) lnp_release(&metrics->host, metrics->per_class, metrics->bytes);
    memset(metrics, 0, sizeof *metrics);
}

lensnet_result lensnet_metrics_compute(lensnet_metrics *metrics, const double *scores,
                                       const int *labels, size_t count, size_t classes,
                                       const lensnet_host *host, lensnet_error *error)
{
    lensnet_host defaults = lensnet_host_defaults();
    lensnet_calibration_bin bins[LENSNET_METRICS_BINS];
    lnp_ranking ranking;
    lensnet_result result;
    size_t i;
    if (!metrics) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "metrics: must not be NULL");
    memset(metrics, 0, sizeof *metrics);
    result = lnp_metrics_check("metrics", scores, labels, count, classes, error);
    if (!result) result = lnp_probabilities_check("metrics", scores, count, classes, error);
    if (result) return result;
    if (!host) host = &defaults;
    result = lnp_ranking_create(&ranking, count * classes, host, error);
    if (result) return result;
    result = lnp_metrics_create(metrics, count, classes, host, error);
    if (!result) {
        for (i = 0; i < count; i++)
            metrics->confusion[(size_t)labels[i] * classes +
                               lnp_largest(scores + i * classes, classes)]++;
        lnp_metrics_decisions(metrics);
        lnp_metrics_distances(metrics, scores, labels);
        lnp_metrics_one_versus_rest(metrics, &ranking, scores, labels);
        lnp_metrics_one_versus_one(metrics, &ranking, scores, labels);
        lnp_calibration_fill(bins, scores, labels, count, classes, LENSNET_METRICS_BINS);
        lnp_calibration_errors(&metrics->ece, &metrics->mce, bins, count, LENSNET_METRICS_BINS);
    }
    lnp_ranking_destroy(&ranking, host);
    return result;
}
/* =================================================================================================
 * >>description  What is known of a network beside its weights: labels, size, normalisation ... It is
 * told by options, else by the file's metadata, else by the config.json and preprocessor_config.json
 * beside it (transformers', timm's), else taken for granted, and then the notes say so.
 * ============================================================================================== */

typedef enum lnp_key {
    LNP_KEY_LABELS, /* one a line */
    LNP_KEY_IMAGE_SIZE,
    LNP_KEY_CROP,    /* native pixels; absent: none */
    LNP_KEY_RESIZED, /* absent: the image size */
    LNP_KEY_NORMALISATION,
    LNP_KEY_MEAN, /* numbers with spaces between */
    LNP_KEY_DEVIATION,
    LNP_KEY_RESIZE,
    LNP_KEY_BANDS,       /* absent: grey */
    LNP_KEY_STRETCH,     /* absent: none */
    LNP_KEY_SOURCE_SIZE, /* absent: unknown */
    LNP_KEY_PIXEL_SCALE, /* absent: unknown */
    LNP_KEY_EPSILON,
    LNP_KEY_VIEWS,        /* absent: 8 */
    LNP_KEY_ARCHITECTURE, /* absent: ConvNeXt V2, or whatever has tensors of these names */
    LNP_KEYS
} lnp_key;

static const char *const lnp_key_names[LNP_KEYS] = {"lensnet.labels",
                                                    "lensnet.image_size",
                                                    "lensnet.crop",
                                                    "lensnet.resized",
                                                    "lensnet.normalisation",
                                                    "lensnet.mean",
                                                    "lensnet.deviation",
                                                    "lensnet.resize",
                                                    "lensnet.bands",
                                                    "lensnet.stretch",
                                                    "lensnet.source_size",
                                                    "lensnet.pixel_scale",
                                                    "lensnet.final_norm_epsilon",
                                                    "lensnet.views",
                                                    "lensnet.architecture"};

#define LNP_CONFIG_MAX ((uint64_t)16 << 20)

/* What the files beside the weights say. */
typedef struct lnp_config {
    lensnet_host host;
    lnp_text said[LNP_KEYS];      /* empty: nothing */
    size_t depths[4], widths[4];  /* 0: nothing */
    double factor;                /* pixels are multiplied by it before mean and deviation count */
    size_t shortest;              /* size.shortest_edge */
    double crop_share;            /* the part of that which is kept */
    int normalises, standard;     /* do_normalize; a processor of transformers' own */
    int other;                    /* 1: of another kind of model */
    lensnet_archive_pair *labels; /* key and value as read, while a file is read */
    size_t label_count, label_capacity;
} lnp_config;

static void lnp_config_release(lnp_config *c)
{
    int i;
    for (i = 0; i < (int)LNP_KEYS; i++) lnp_text_release(&c->said[i]);
    lnp_release(&c->host, c->labels, c->label_capacity * sizeof *c->labels);
}

static void lnp_config_say(lnp_config *c, lnp_key key, const char *value)
{
    if (c->said[key].text) c->said[key].text[0] = 0;
    c->said[key].length = 0;
    lnp_text_put(&c->said[key], value);
}

static void lnp_config_say_number(lnp_config *c, lnp_key key, double value)
{
    char digits[48];
    lnp_number_text(digits, sizeof digits, 9, value);
    lnp_config_say(c, key, digits);
}

/* --- values of JSON --- */

static double lnp_json_number(lnp_json *json)
{
    char digits[80];
    double value = 0;
    size_t start, length;
    (void)lnp_json_peek(json);
    start = json->at;
    lnp_json_skip_number(json);
    length = lnp_min(json->at - start, sizeof digits - 1);
    memcpy(digits, json->text + start, length);
    digits[length] = 0;
    if (!json->problem && !lnp_number_parse(digits, &value)) lnp_json_fail(json, "a long number");
    return value;
}

static int lnp_json_is_number(lnp_json *json)
{
    const char c = lnp_json_peek(json);
    return lnp_is_digit(c) || c == '-';
}

/* An array of numbers, or one number; how many there are. Only `capacity` are kept. Of anything else,
 * none: a file of that name may be another program's. */
static size_t lnp_json_numbers(lnp_json *json, double *values, size_t capacity)
{
    size_t count = 0;
    if (lnp_json_is_number(json)) {
        values[0] = lnp_json_number(json);
        return 1;
    }
    if (lnp_json_peek(json) != '[') {
        lnp_json_skip(json);
        return 0;
    }
    lnp_json_begin(json, '[');
    while (lnp_json_more(json, ']', &count)) {
        const int number = lnp_json_is_number(json);
        double value = number ? lnp_json_number(json) : 0;
        if (!number) lnp_json_skip(json);
        if (count <= capacity) values[count - 1] = value;
    }
    return count;
}

static int lnp_json_flag(lnp_json *json)
{
    int flag = lnp_json_peek(json) == 't';
    lnp_json_skip(json);
    return flag;
}

static void lnp_config_numbers(lnp_config *c, lnp_key key, lnp_json *json, double factor)
{
    double values[LENSNET_BANDS_LIMIT];
    size_t i, count = lnp_json_numbers(json, values, LENSNET_BANDS_LIMIT);
    lnp_config_say(c, key, "");
    for (i = 0; i < lnp_min(count, LENSNET_BANDS_LIMIT); i++) {
        char digits[48];
        lnp_number_text(digits, sizeof digits, 9, values[i] * factor);
        if (i) lnp_text_char(&c->said[key], ' ');
        lnp_text_put(&c->said[key], digits);
    }
}

static void lnp_config_four(size_t *four, lnp_json *json)
{
    double values[4] = {0, 0, 0, 0};
    size_t i, count = lnp_json_numbers(json, values, 4);
    for (i = 0; i < 4; i++)
        four[i] = count == 4 && values[i] >= 1 && values[i] < 1e6 ? (size_t)values[i] : 0;
}

/* --- labels --- */

static void lnp_config_label(lnp_config *c, lnp_json *json, const char *key, const char *value)
{
    if (json->problem) return;
    if (strchr(value, '\n')) lnp_json_fail(json, "a label with a line break");
    if (!lnp_grow(&c->host, (void **)&c->labels, c->label_count, &c->label_capacity,
                  sizeof *c->labels)) {
        lnp_json_fail(json, "out of memory for a label");
        return;
    }
    c->labels[c->label_count].key = key;
    c->labels[c->label_count++].value = value;
}

/* The label whose key is the number; NULL unless there is exactly one. */
static const char *lnp_config_label_at(const lnp_config *c, size_t number)
{
    const char *found = NULL;
    size_t i;
    if (number < c->label_count && !c->labels[number].key) return c->labels[number].value;
    for (i = 0; i < c->label_count; i++) {
        size_t key;
        const char *end = c->labels[i].key ? lnp_digits(c->labels[i].key, &key) : NULL;
        if (!end || end == c->labels[i].key || *end || key != number) continue;
        if (found) return NULL;
        found = c->labels[i].value;
    }
    return found;
}

/* Says the labels, unless they are transformers' LABEL_0, LABEL_1 ..., which name nothing. */
static void lnp_config_say_labels(lnp_config *c, lnp_json *json)
{
    size_t i, unnamed = 0;
    lnp_config_say(c, LNP_KEY_LABELS, "");
    for (i = 0; i < c->label_count && !json->problem; i++) {
        const char *label = lnp_config_label_at(c, i);
        if (!label) lnp_json_fail(json, "labels that are not numbered 0, 1, 2 ...");
        if (!label) return;
        unnamed += !strncmp(label, "LABEL_", 6);
        if (i) lnp_text_char(&c->said[LNP_KEY_LABELS], '\n');
        lnp_text_put(&c->said[LNP_KEY_LABELS], label);
    }
    if (unnamed == c->label_count) lnp_config_say(c, LNP_KEY_LABELS, "");
    c->label_count = 0;
}

/* {"0": "no", ...} or ["no", ...] */
static void lnp_config_labels(lnp_config *c, lnp_json *json)
{
    const int object = lnp_json_peek(json) == '{';
    size_t count = 0;
    c->label_count = 0;
    if (!object && lnp_json_peek(json) != '[') {
        lnp_json_skip(json);
        return;
    }
    lnp_json_begin(json, object ? '{' : '[');
    while (lnp_json_more(json, object ? '}' : ']', &count)) {
        const char *key = object ? lnp_json_key(json) : NULL;
        const char *value = lnp_json_string(json);
        lnp_config_label(c, json, key, value);
    }
    lnp_config_say_labels(c, json);
}

/* --- the two files --- */

/* image_size: 224, or [3, 224, 224], or [224, 224]: the last number. */
static void lnp_config_side(lnp_config *c, lnp_json *json)
{
    double sides[3] = {0, 0, 0};
    size_t count = lnp_json_numbers(json, sides, 3);
    if (count >= 1 && count <= 3) lnp_config_say_number(c, LNP_KEY_IMAGE_SIZE, sides[count - 1]);
}

/* size: 224, {"height": 224, "width": 224} or {"shortest_edge": 224} */
static void lnp_config_size(lnp_config *c, lnp_json *json)
{
    size_t count = 0;
    if (lnp_json_peek(json) != '{') {
        lnp_config_side(c, json);
        return;
    }
    lnp_json_begin(json, '{');
    while (lnp_json_more(json, '}', &count)) {
        const char *key = lnp_json_key(json);
        double side = 0;
        if (key && !lnp_json_numbers(json, &side, 1)) continue;
        if (!json->problem && !(side >= 1 && side <= LENSNET_IMAGE_LIMIT))
            lnp_json_fail(json, "an impossible size");
        if (json->problem) return;
        lnp_config_say_number(c, LNP_KEY_IMAGE_SIZE, side);
        if (!strcmp(key, "shortest_edge")) c->shortest = (size_t)side;
    }
}

/* Pillow's number of a filter, or the library's or torchvision's name. */
static void lnp_config_resize(lnp_config *c, lnp_json *json)
{
    const char *name = NULL;
    if (lnp_json_peek(json) == '"') {
        name = lnp_json_string(json);
    } else if (lnp_json_is_number(json)) {
        double number = lnp_json_number(json);
        name = number == 0 ? "nearest" : number == 2 ? "bilinear" : number == 3 ? "bicubic" : NULL;
    } else {
        lnp_json_skip(json);
    }
    if (name) lnp_config_say(c, LNP_KEY_RESIZE, name);
}

static void lnp_config_object(lnp_config *c, lnp_json *json);

static void lnp_config_text(lnp_config *c, lnp_key key, lnp_json *json)
{
    const char *text = lnp_json_peek(json) == '"' ? lnp_json_string(json) : NULL;
    if (text)
        lnp_config_say(c, key, text);
    else if (!json->problem)
        lnp_json_skip(json);
}

/* transformers' names of the way to the input, timm's (in "pretrained_cfg"), and our own. */
static int lnp_config_image_field(lnp_config *c, const char *key, lnp_json *json)
{
    if (!strcmp(key, "image_mean") || !strcmp(key, "mean"))
        lnp_config_numbers(c, LNP_KEY_MEAN, json, 1);
    else if (!strcmp(key, "image_std") || !strcmp(key, "std") || !strcmp(key, "deviation"))
        lnp_config_numbers(c, LNP_KEY_DEVIATION, json, 1);
    else if (!strcmp(key, "rescale_factor") && lnp_json_is_number(json))
        c->factor = lnp_json_number(json);
    else if (!strcmp(key, "do_rescale"))
        c->standard |= lnp_json_flag(json) ? 3 : 1;
    else if (!strcmp(key, "do_normalize"))
        c->normalises = lnp_json_flag(json);
    else if (!strcmp(key, "crop_pct") && lnp_json_is_number(json))
        c->crop_share = lnp_json_number(json);
    else if (!strcmp(key, "size"))
        lnp_config_size(c, json);
    else if (!strcmp(key, "resample") || !strcmp(key, "interpolation") || !strcmp(key, "resize"))
        lnp_config_resize(c, json);
    else if (!strcmp(key, "normalisation"))
        lnp_config_text(c, LNP_KEY_NORMALISATION, json);
    else if (!strcmp(key, "stretch"))
        lnp_config_text(c, LNP_KEY_STRETCH, json);
    else if (!strcmp(key, "crop") && lnp_json_is_number(json))
        lnp_config_say_number(c, LNP_KEY_CROP, lnp_json_number(json));
    else if (!strcmp(key, "bands") && lnp_json_is_number(json))
        lnp_config_say_number(c, LNP_KEY_BANDS, lnp_json_number(json));
    else if (!strcmp(key, "resized") && lnp_json_is_number(json))
        lnp_config_say_number(c, LNP_KEY_RESIZED, lnp_json_number(json));
    else
        return 0;
    return 1;
}

/* A configuration of something else says nothing of this network. */
static void lnp_config_type(lnp_config *c, lnp_json *json)
{
    const char *type = lnp_json_string(json);
    c->other = type && strcmp(type, "convnextv2") != 0;
}

static void lnp_config_field(lnp_config *c, const char *key, lnp_json *json)
{
    if (lnp_config_image_field(c, key, json)) return;
    if (!strcmp(key, "id2label") || !strcmp(key, "label_names"))
        lnp_config_labels(c, json);
    else if (!strcmp(key, "image_size") || !strcmp(key, "input_size"))
        lnp_config_side(c, json);
    else if (!strcmp(key, "model_type") && lnp_json_peek(json) == '"')
        lnp_config_type(c, json);
    else if (!strcmp(key, "architecture"))
        lnp_config_text(c, LNP_KEY_ARCHITECTURE, json);
    else if (!strcmp(key, "depths"))
        lnp_config_four(c->depths, json);
    else if (!strcmp(key, "hidden_sizes"))
        lnp_config_four(c->widths, json);
    else if (!strcmp(key, "layer_norm_eps") && lnp_json_is_number(json))
        lnp_config_say_number(c, LNP_KEY_EPSILON, lnp_json_number(json));
    else if (!strcmp(key, "pretrained_cfg") && lnp_json_peek(json) == '{')
        lnp_config_object(c, json);
    else
        lnp_json_skip(json);
}

static void lnp_config_object(lnp_config *c, lnp_json *json)
{
    size_t count = 0;
    lnp_json_begin(json, '{');
    while (lnp_json_more(json, '}', &count)) {
        const char *key = lnp_json_key(json);
        if (key) lnp_config_field(c, key, json);
    }
}

/* All of the file `name` beside the archive, ended by a zero; NULL where there is none. */
static lensnet_result lnp_config_load(char **text, size_t *bytes, const lensnet_archive *archive,
                                      const char *name, lensnet_error *error)
{
    const lensnet_host *host = &archive->host;
    const char *slash = strrchr(archive->path, '/');
    lensnet_result result = LENSNET_OK;
    lnp_text path;
    size_t i;
    void *file;
    uint64_t size;
    *text = NULL;
    *bytes = 0;
    lnp_text_begin(&path, host);
    for (i = 0; slash && i <= (size_t)(slash - archive->path); i++)
        lnp_text_char(&path, archive->path[i]);
    lnp_text_put(&path, name);
    if (path.failed) {
        lnp_text_release(&path);
        return lnp_no_memory(error, name, archive->path);
    }
    file = host->file_open(path.text, 0, host->user);
    lnp_text_release(&path);
    if (!file) return LENSNET_OK;
    size = host->file_size(file, host->user);
    *bytes = size <= LNP_CONFIG_MAX ? (size_t)size + 1 : 0;
    *text = *bytes ? (char *)lnp_allocate(host, *bytes) : NULL;
    if (*text) (*text)[size] = 0;
    if (*bytes && !*text)
        result = lnp_no_memory(error, name, archive->path);
    else if (!*text || (size && host->file_read(file, 0, *text, (size_t)size, host->user)))
        result =
            lnp_fail(error, LENSNET_ERROR_FILE,
                     "the %s beside '%.200s' cannot be read, or is too large", name, archive->path);
    host->file_close(file, 0, host->user);
    if (result) lnp_release(host, *text, *bytes);
    return result;
}

static lensnet_result lnp_config_read(lnp_config *c, const lensnet_archive *archive,
                                      const char *name, lensnet_error *error)
{
    size_t bytes;
    char *text;
    lensnet_result result = lnp_config_load(&text, &bytes, archive, name, error);
    lnp_json json;
    if (result || !text) return result;
    memset(&json, 0, sizeof json);
    json.text = text;
    json.length = bytes - 1;
    if (!strncmp(text, "\xef\xbb\xbf", 3)) json.at = 3; /* Windows' mark of UTF-8 */
    if (!lnp_utf8_valid(text, json.length)) lnp_json_fail(&json, "text that is not UTF-8");
    lnp_config_object(c, &json);
    lnp_json_end(&json);
    if (json.problem)
        result = lnp_fail(error, LENSNET_ERROR_FORMAT,
                          "the %s beside '%.200s' cannot be read: %s at byte %zu; mend it, or move "
                          "it away",
                          name, archive->path, json.problem, json.at);
    lnp_release(&archive->host, text, bytes);
    return result;
}

/* A processor of transformers' own: pixels times the factor, minus the mean, over the deviation. */
static void lnp_config_standard(lnp_config *c)
{
    const double factor = c->standard == 3 ? c->factor : 1;
    const lnp_key keys[2] = {LNP_KEY_MEAN, LNP_KEY_DEVIATION};
    int i;
    if (!c->normalises) {
        lnp_config_say(c, LNP_KEY_MEAN, "0");
        lnp_config_say(c, LNP_KEY_DEVIATION, "1");
    }
    for (i = 0; i < 2 && factor > 0; i++) {
        char copy[64 * LENSNET_BANDS_LIMIT];
        lnp_json json;
        memset(&json, 0, sizeof json);
        snprintf(copy, sizeof copy, "[%s]", c->said[keys[i]].text ? c->said[keys[i]].text : "");
        for (json.length = 0; copy[json.length]; json.length++)
            if (copy[json.length] == ' ') copy[json.length] = ',';
        json.text = copy;
        lnp_config_numbers(c, keys[i], &json, 1 / factor);
    }
    lnp_config_say(c, LNP_KEY_NORMALISATION, "dataset");
}

/* Do the metadata say all that is asked for? Then nothing beside the file is looked at. */
static int lnp_is_complete(const lensnet_archive *archive)
{
    return lensnet_archive_metadata(archive, lnp_key_names[LNP_KEY_LABELS]) &&
           lensnet_archive_metadata(archive, lnp_key_names[LNP_KEY_IMAGE_SIZE]) &&
           lensnet_archive_metadata(archive, lnp_key_names[LNP_KEY_NORMALISATION]);
}

/* Reads both files, where they are; those of another network say nothing. */
static lensnet_result lnp_config_open(lnp_config *c, const lensnet_archive *archive,
                                      lensnet_error *error)
{
    lensnet_result result;
    int i;
    memset(c, 0, sizeof *c);
    c->host = archive->host;
    c->factor = 1.0 / 255;
    c->normalises = 1;
    for (i = 0; i < (int)LNP_KEYS; i++) lnp_text_begin(&c->said[i], &c->host);
    if (archive->parts[0].memory || lnp_is_complete(archive)) return LENSNET_OK;
    result = lnp_config_read(c, archive, "config.json", error);
    if (!result && c->said[LNP_KEY_MEAN].length) /* timm's */
        lnp_config_say(c, LNP_KEY_NORMALISATION, "dataset");
    if (!result && c->crop_share > 0 && c->said[LNP_KEY_IMAGE_SIZE].length)
        c->shortest = (size_t)strtoul(c->said[LNP_KEY_IMAGE_SIZE].text, NULL, 10);
    if (!result) result = lnp_config_read(c, archive, "preprocessor_config.json", error);
    if (result) return result;
    if (c->standard) lnp_config_standard(c);
    if (c->standard && c->crop_share <= 0) c->crop_share = 0.875;
    if (c->shortest && c->crop_share > 0 && c->crop_share < 1 &&
        !(c->standard && c->shortest >= 384))
        lnp_config_say_number(c, LNP_KEY_RESIZED, floor((double)c->shortest / c->crop_share));
    for (i = 0; i < (int)LNP_KEYS; i++)
        if (c->said[i].failed) result = LENSNET_ERROR_MEMORY;
    return result ? lnp_no_memory(error, "the configuration", archive->path) : LENSNET_OK;
}

static int lnp_config_is_other(const lnp_config *c, const lnp_checkpoint *file)
{
    const char *said =
        c->said[LNP_KEY_ARCHITECTURE].length ? c->said[LNP_KEY_ARCHITECTURE].text : NULL;
    size_t i;
    if (file->architecture) return said && strcmp(said, file->architecture->name) != 0;
    if (c->other) return 1;
    for (i = 0; i < 4; i++)
        if ((c->depths[i] && c->depths[i] != file->net.depths[i]) ||
            (c->widths[i] && c->widths[i] != file->net.widths[i]))
            return 1;
    return 0;
}

/* --- put together --- */

/* The labels of a description: a table of `count` pointers and the texts, in one block. */
typedef struct lnp_label_table {
    lensnet_host host;
    char *block;
    size_t bytes, count;
} lnp_label_table;

static const char *const *lnp_label_pointers(const lnp_label_table *t)
{
    return t->count ? (const char *const *)(const void *)t->block : NULL;
}

static lensnet_result lnp_labels_split(lnp_label_table *t, const char *text, lensnet_error *error)
{
    const char *c;
    const char **table;
    char *copy;
    for (c = text, t->count = 1; *c; c++) t->count += *c == '\n';
    t->bytes = t->count * sizeof(char *) + strlen(text) + 1;
    t->block = (char *)lnp_allocate(&t->host, t->bytes);
    if (!t->block) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for labels");
    table = (const char **)(void *)t->block;
    copy = t->block + t->count * sizeof(char *);
    memcpy(copy, text, strlen(text) + 1);
    *table++ = copy;
    for (; *copy; copy++)
        if (*copy == '\n') {
            *copy = '\0';
            *table++ = copy + 1;
        }
    return LENSNET_OK;
}

/* The three sources in their order, and the notes. */
typedef struct lnp_sources {
    const lensnet_archive_pair *told;
    size_t told_count;
    const lnp_checkpoint *file;
    lnp_config config;
    lnp_label_table labels;
    lnp_text notes;
    char notes_text[LNP_NOTES];
} lnp_sources;

static const char *lnp_pair_value(const lensnet_archive_pair *pairs, size_t count, const char *key)
{
    size_t i;
    for (i = 0; i < count; i++)
        if (!strcmp(pairs[i].key, key)) return pairs[i].value;
    return NULL;
}

static const char *lnp_said(const lnp_sources *s, lnp_key key)
{
    const char *name = lnp_key_names[key];
    const char *value = lnp_pair_value(s->told, s->told_count, name);
    if (!value) value = lensnet_archive_metadata(s->file->archive, name);
    if (!value && s->config.said[key].length) value = s->config.said[key].text;
    return value;
}

static int lnp_is_from_config(const lnp_sources *s, lnp_key key)
{
    return s->config.said[key].length && lnp_said(s, key) == s->config.said[key].text;
}

static lensnet_result lnp_bad_metadata(const char *key, const char *value, lensnet_error *error)
{
    return lnp_fail(error, LENSNET_ERROR_FORMAT,
                    "what is said of the weights is not valid: %s is \"%.60s\"", key, value);
}

/* What a parser of words refused, was said of the weights. */
static lensnet_result lnp_bad_word(lensnet_result result, lensnet_error *error)
{
    if (result && error) error->code = LENSNET_ERROR_FORMAT;
    return result ? LENSNET_ERROR_FORMAT : LENSNET_OK;
}

static lensnet_result lnp_read_whole(int *number, const lnp_sources *s, lnp_key key, long low,
                                     long high, lensnet_error *error)
{
    const char *text = lnp_said(s, key);
    char *end;
    long value;
    if (!text) return LENSNET_OK;
    value = strtol(text, &end, 10);
    if (*end || end == text || value < low || value > high)
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "what is said of the weights is not valid: %s is \"%.60s\"; expected a "
                        "whole number, %ld ... %ld",
                        lnp_key_names[key], text, low, high);
    *number = (int)value;
    return LENSNET_OK;
}

/* Numbers with spaces or commas between, one for each channel or one for all. */
static lensnet_result lnp_read_channels(float *values, const lnp_sources *s, lnp_key key,
                                        int channels, double low, lensnet_error *error)
{
    const char *text = lnp_said(s, key), *at = text;
    int count = 0, i;
    while (at && *at && count < LENSNET_BANDS_LIMIT) {
        const size_t length = strcspn(at, " ,");
        char digits[48];
        double number;
        snprintf(digits, sizeof digits, "%.*s", (int)lnp_min(length, 47), at);
        if (!lnp_number_parse(digits, &number) || !(number > low && number < 1e30)) break;
        values[count++] = (float)number;
        at += length + strspn(at + length, " ,");
    }
    if (!text || *at || (count != channels && count != 1))
        return lnp_bad_metadata(lnp_key_names[key], text ? text : "missing", error);
    for (i = count; i < channels; i++) values[i] = values[0];
    return LENSNET_OK;
}

/* What is known of the images that the weights were trained on. */
static lensnet_result lnp_read_source(lensnet_preprocess *p, const lnp_sources *s,
                                      lensnet_error *error)
{
    const char *stretch = lnp_said(s, LNP_KEY_STRETCH), *scale = lnp_said(s, LNP_KEY_PIXEL_SCALE);
    lensnet_result result = lnp_read_whole(&p->bands, s, LNP_KEY_BANDS, 1, p->channels, error);
    if (!result)
        result =
            lnp_read_whole(&p->source_size, s, LNP_KEY_SOURCE_SIZE, 0, LENSNET_IMAGE_LIMIT, error);
    if (result) return result;
    if (p->bands == 1 && p->channels != 1 && p->channels != 3) p->bands = p->channels;
    if (stretch) result = lensnet_stretch_parse(&p->stretch, stretch, error);
    if (result) return lnp_bad_word(result, error);
    if (scale && (!lnp_number_parse(scale, &p->pixel_scale) ||
                  !(p->pixel_scale >= 0 && p->pixel_scale < 1e6)))
        return lnp_bad_metadata(lnp_key_names[LNP_KEY_PIXEL_SCALE], scale, error);
    return LENSNET_OK;
}

static lensnet_result lnp_read_preprocess(lensnet_preprocess *p, const lnp_sources *s,
                                          lensnet_error *error)
{
    const char *normalisation = lnp_said(s, LNP_KEY_NORMALISATION);
    const char *resize = lnp_said(s, LNP_KEY_RESIZE);
    lensnet_result result = lnp_read_whole(&p->image_size, s, LNP_KEY_IMAGE_SIZE, 32, 8192, error);
    if (!result) result = lnp_read_whole(&p->crop, s, LNP_KEY_CROP, 0, LENSNET_IMAGE_LIMIT, error);
    if (!result) result = lnp_read_source(p, s, error);
    if (!result)
        result = lnp_read_whole(&p->resized, s, LNP_KEY_RESIZED, 0, LENSNET_IMAGE_LIMIT, error);
    if (result) return result;
    if (normalisation)
        result = lensnet_normalisation_parse(&p->normalisation, normalisation, error);
    if (!result && resize) result = lensnet_resize_parse(&p->resize, resize, error);
    if (result) return lnp_bad_word(result, error);
    if (p->normalisation != LENSNET_NORMALISATION_DATASET) return LENSNET_OK;
    result = lnp_read_channels(p->mean, s, LNP_KEY_MEAN, p->channels, -1e30, error);
    return result ? result
                  : lnp_read_channels(p->deviation, s, LNP_KEY_DEVIATION, p->channels, 0, error);
}

static void lnp_note(lnp_sources *s, const char *text, const char *more)
{
    if (s->notes.length) lnp_text_char(&s->notes, '\n');
    lnp_text_put(&s->notes, text);
    lnp_text_put(&s->notes, more);
}

/* Tells what stood in a config.json, and what nobody said. */
static void lnp_note_sources(lnp_sources *s, const lensnet_model_desc *desc)
{
    static const char *const words[LNP_KEYS] = {
        "labels", "image size", "crop", "resized size", "normalisation",
        NULL,     NULL,         NULL,   NULL,           NULL,
        NULL,     NULL,         NULL,   NULL,           NULL};
    char read[160];
    lnp_text list = lnp_text_in(read, sizeof read);
    int i;
    if (s->file->prefix[0]) lnp_note(s, "taken off the names of the tensors: ", s->file->prefix);
    for (i = 0; i < (int)LNP_KEYS; i++)
        if (words[i] && lnp_is_from_config(s, (lnp_key)i)) {
            if (list.length) lnp_text_put(&list, ", ");
            lnp_text_put(&list, words[i]);
        }
    if (list.length)
        lnp_note(s, "read from the config.json and preprocessor_config.json beside it: ", read);
    if (lnp_said(s, LNP_KEY_LABELS) || !s->file->has_head)
        ;
    else if (desc->classes == 3)
        lnp_note(s, "no labels in this file: taken to be no, sphere, vort", "");
    else
        lnp_note(s, "no labels in this file: called class 0, class 1 ...", "");
    if (!lnp_said(s, LNP_KEY_IMAGE_SIZE))
        lnp_note(s, "no image size in this file: taken to be 224 pixels", "");
    if (!lnp_said(s, LNP_KEY_NORMALISATION))
        lnp_note(s, "no normalisation in this file: taken to be znorm (each image by itself)", "");
}

/* Fills what is known into `desc`; s->told, s->file and s->config are set. To be released in any case. */
static lensnet_result lnp_sources_read(lnp_sources *s, lensnet_model_desc *desc,
                                       const lensnet_host *host, lensnet_error *error)
{
    const char *labels, *epsilon;
    lensnet_result result;
    s->labels.host = *host;
    s->notes = lnp_text_in(s->notes_text, sizeof s->notes_text);
    memcpy(desc->depths, s->file->net.depths, sizeof desc->depths);
    memcpy(desc->widths, s->file->net.widths, sizeof desc->widths);
    desc->architecture = s->file->architecture;
    desc->preprocess.channels = (int)lnp_min(s->file->net.channels, 65536);
    if (s->file->has_head) desc->classes = s->file->net.classes;
    if (lnp_config_is_other(&s->config, s->file)) {
        lnp_config_release(&s->config);
        memset(&s->config, 0, sizeof s->config);
        lnp_note(s, "the config.json beside it is of another network: not used", "");
    }
    epsilon = lnp_said(s, LNP_KEY_EPSILON);
    if (epsilon) {
        double number = 0;
        if (!lnp_number_parse(epsilon, &number) || !(number > 1e-30 && number < 1))
            return lnp_bad_metadata(lnp_key_names[LNP_KEY_EPSILON], epsilon, error);
        desc->final_norm_epsilon = (float)number;
    }
    result = lnp_read_whole(&desc->views, s, LNP_KEY_VIEWS, 1, 8, error);
    if (result) return result;
    labels = lnp_said(s, LNP_KEY_LABELS);
    if (labels && s->file->has_head) {
        result = lnp_labels_split(&s->labels, labels, error);
        if (!result && s->labels.count != desc->classes)
            result = lnp_fail(error, LENSNET_ERROR_FORMAT,
                              "%zu labels are said, but the network has %zu classes",
                              s->labels.count, desc->classes);
        if (result) return result;
        desc->labels = lnp_label_pointers(&s->labels);
    }
    result = lnp_read_preprocess(&desc->preprocess, s, error);
    if (!result) lnp_note_sources(s, desc);
    return result;
}

static void lnp_sources_release(lnp_sources *s)
{
    lnp_config_release(&s->config);
    lnp_release(&s->labels.host, s->labels.block, s->labels.bytes);
}
/* =================================================================================================
 * >>convnext-v2  The network, as in the paper, and its way to and from files.
 * Parameters stand in the order of transformers' files (>>checkpoints): stem, then stage by stage the
 * downsampling and the blocks, then norm and head. Recording walks the same order.
 * ============================================================================================== */

struct lensnet_model {
    lensnet_host host;
    lensnet_model_desc desc; /* labels point into `labels`, heads to `heads` */
    lensnet_head heads[LENSNET_HEADS];
    char *labels;          /* `classes` pointers, then the texts */
    char notes[LNP_NOTES]; /* what was taken for granted, a line each */
    size_t labels_bytes;
    size_t stages[4], features; /* channels; 0: a stage that the network does not have */
    lensnet_parameters *parameters;
};

typedef struct lnp_variant {
    const char *name;
    size_t depths[4], widths[4];
} lnp_variant;

static const lnp_variant lnp_variants[] = {{"atto", {2, 2, 6, 2}, {40, 80, 160, 320}},
                                           {"femto", {2, 2, 6, 2}, {48, 96, 192, 384}},
                                           {"pico", {2, 2, 6, 2}, {64, 128, 256, 512}},
                                           {"nano", {2, 2, 8, 2}, {80, 160, 320, 640}},
                                           {"tiny", {3, 3, 9, 3}, {96, 192, 384, 768}},
                                           {"base", {3, 3, 27, 3}, {128, 256, 512, 1024}},
                                           {"large", {3, 3, 27, 3}, {192, 384, 768, 1536}},
                                           {"huge", {3, 3, 27, 3}, {352, 704, 1408, 2816}}};
#define LNP_VARIANTS (sizeof lnp_variants / sizeof *lnp_variants)

lensnet_model_desc lensnet_model_defaults(void)
{
    lensnet_model_desc d;
    memset(&d, 0, sizeof d);
    lensnet_model_variant(&d, "tiny", NULL);
    d.classes = 3;
    d.final_norm_epsilon = 1e-6f;
    d.views = 8;
    d.preprocess = lensnet_preprocess_defaults();
    d.gradients = 1;
    return d;
}

lensnet_result lensnet_model_variant(lensnet_model_desc *desc, const char *name,
                                     lensnet_error *error)
{
    size_t i;
    if (!desc || !name) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model variant: NULL");
    for (i = 0; i < LNP_VARIANTS; i++)
        if (!strcmp(lnp_variants[i].name, name)) {
            memcpy(desc->depths, lnp_variants[i].depths, sizeof desc->depths);
            memcpy(desc->widths, lnp_variants[i].widths, sizeof desc->widths);
            return LENSNET_OK;
        }
    return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                    "there is no ConvNeXt V2 variant \"%.40s\"; there are atto, femto, pico, nano, "
                    "tiny, base, large and huge",
                    name);
}

const char *lensnet_model_variant_name(const lensnet_model_desc *desc)
{
    size_t i;
    if (desc && desc->architecture) return desc->architecture->name;
    for (i = 0; desc && i < LNP_VARIANTS; i++)
        if (!memcmp(lnp_variants[i].depths, desc->depths, sizeof desc->depths) &&
            !memcmp(lnp_variants[i].widths, desc->widths, sizeof desc->widths))
            return lnp_variants[i].name;
    return "custom";
}

static lnp_net lnp_net_of(const lensnet_model_desc *desc)
{
    lnp_net net;
    memcpy(net.depths, desc->depths, sizeof net.depths);
    memcpy(net.widths, desc->widths, sizeof net.widths);
    net.channels = (size_t)desc->preprocess.channels;
    net.classes = desc->classes;
    return net;
}

static lnp_slot lnp_first_slot(void)
{
    lnp_slot slot;
    slot.role = LNP_STEM_CONV_WEIGHT;
    slot.stage = slot.block = 0;
    return slot;
}

/* --- a sketch: what another network asks for ------------------------------------------------------ */

static lensnet_network lnp_record_network(lensnet_graph *g, const lensnet_model_desc *d,
                                          lensnet_tensor *pooled, size_t stage);

/* A network recorded for one image, over a table of its own that never gets values. */
typedef struct lnp_sketch {
    lensnet_parameters *parameters;
    lensnet_graph *graph;
    lensnet_network network;
} lnp_sketch;

static void lnp_sketch_end(lnp_sketch *s)
{
    lensnet_graph_destroy(s->graph);
    lensnet_parameters_destroy(s->parameters);
}

/* To be ended in any case. Heads are not in it. */
static lensnet_result lnp_sketch_begin(lnp_sketch *s, const lensnet_model_desc *desc, size_t height,
                                       size_t width, lensnet_error *error)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    const lensnet_error *failure;
    lensnet_result result;
    memset(s, 0, sizeof *s);
    options.height = height;
    options.width = width;
    options.batch = 1;
    result = lensnet_parameters_create(&s->parameters, desc->host, error);
    if (!result) result = lensnet_graph_create(&s->graph, s->parameters, &options, error);
    if (result) return result;
    s->network = lnp_record_network(s->graph, desc, NULL, 3);
    lensnet_output(s->graph, s->network.logits);
    failure = s->parameters->failure.code ? &s->parameters->failure : &s->graph->failure;
    if (failure->code)
        return lnp_fail(error, failure->code, "%.100s: %.380s", desc->architecture->name,
                        failure->text);
    return s->parameters->count >= 3
               ? LENSNET_OK
               : lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                          "%.100s: an architecture has three weights at least",
                          desc->architecture->name);
}

static lensnet_result lnp_sketch_input(lnp_sketch *s, const lensnet_model_desc *desc,
                                       lensnet_error *error)
{
    const size_t side = (size_t)desc->preprocess.image_size;
    return lnp_sketch_begin(s, desc, side, side, error);
}

size_t lensnet_model_weights(const lensnet_model_desc *desc)
{
    lensnet_model_desc defaults = lensnet_model_defaults();
    lnp_net net = lnp_net_of(desc ? desc : &defaults);
    lnp_slot slot = lnp_first_slot();
    lnp_sketch sketch;
    size_t total = 0;
    if (desc && desc->architecture) {
        if (!lnp_sketch_input(&sketch, desc, NULL)) total = sketch.parameters->size;
        lnp_sketch_end(&sketch);
        return total;
    }
    do {
        size_t shape[4];
        int rank = lnp_role_shape(shape, slot.role, slot.stage, &net), i;
        size_t size = 1;
        for (i = 0; i < rank; i++) size *= shape[i];
        total += size;
    } while (lnp_slot_next(&slot, &net));
    return total;
}

double lensnet_model_macs(const lensnet_model_desc *desc, size_t height, size_t width)
{
    lensnet_model_desc defaults = lensnet_model_defaults();
    double total = 0;
    size_t s, h = height / 4, w = width / 4;
    lnp_sketch sketch;
    lensnet_plan plan;
    if (!desc) desc = &defaults;
    if (desc->architecture) {
        if (!lnp_sketch_begin(&sketch, desc, height, width, NULL) &&
            !lensnet_graph_plan(sketch.graph, &plan, NULL))
            total = plan.macs;
        lnp_sketch_end(&sketch);
        return total;
    }
    for (s = 0; s < 4; s++, h /= 2, w /= 2) {
        double c = (double)desc->widths[s], pixels = (double)h * (double)w;
        double from = s ? 4 * (double)desc->widths[s - 1] : 16 * (double)desc->preprocess.channels;
        total += pixels * c * from + pixels * (double)desc->depths[s] * (49 * c + 8 * c * c);
    }
    return total + (double)desc->widths[3] * (double)desc->classes;
}

static int lnp_head_name_valid(const char name[24])
{
    size_t i, length = 0;
    while (length < 24 && name[length]) length++;
    for (i = 0; i < length; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_'))
            return 0;
    }
    return length > 0 && length < 24;
}

static lensnet_result lnp_heads_check(const lensnet_model_desc *d, lensnet_error *error)
{
    size_t i;
    if (d->head_count > LENSNET_HEADS || (d->head_count && !d->heads))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model: heads are NULL, or more than %d",
                        LENSNET_HEADS);
    for (i = 0; i < d->head_count; i++)
        if (!lnp_head_name_valid(d->heads[i].name) || d->heads[i].stage < 0 ||
            d->heads[i].stage > LENSNET_HEAD_POOLED || d->heads[i].outputs < 1 ||
            d->heads[i].outputs > 65536)
            return lnp_fail(
                error, LENSNET_ERROR_ARGUMENT,
                "model: head %d needs a name of letters, digits and _, a stage of 0 ... "
                "3 or LENSNET_HEAD_POOLED and 1 ... 65536 outputs",
                (int)i);
    return LENSNET_OK;
}

static int lnp_views_valid(int views)
{
    return views == 1 || views == 2 || views == 4 || views == 8;
}

lensnet_result lensnet_model_set_views(lensnet_model *model, int views, lensnet_error *error)
{
    if (!model || !lnp_views_valid(views))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "model: NULL, or %d views; expected 1, 2, 4 or 8", views);
    model->desc.views = views;
    return LENSNET_OK;
}

static lensnet_result lnp_model_desc_check(const lensnet_model_desc *d, lensnet_error *error)
{
    size_t s;
    lensnet_result result = lensnet_preprocess_check(&d->preprocess, error);
    if (result) return result;
    for (s = 0; !d->architecture && s < 4; s++)
        if (d->depths[s] < 1 || d->depths[s] > 1000 || d->widths[s] < 1 || d->widths[s] > 65536)
            return lnp_fail(
                error, LENSNET_ERROR_ARGUMENT,
                "model: stage %d has %zu blocks of %zu channels; expected 1 ... 1000 and "
                "1 ... 65536",
                (int)s, d->depths[s], d->widths[s]);
    if (d->classes < 1 || d->classes > 65536)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model: %zu classes; expected 1 ... 65536",
                        d->classes);
    result = lnp_heads_check(d, error);
    if (result) return result;
    if (!lnp_views_valid(d->views))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model: %d views; expected 1, 2, 4 or 8",
                        d->views);
    if (!(d->drop_path_rate >= 0.0f && d->drop_path_rate < 1.0f) || !(d->final_norm_epsilon > 0.0f))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "model: drop path rate %g must be 0 ... < 1 and the norm's epsilon %g > 0",
                        (double)d->drop_path_rate, (double)d->final_norm_epsilon);
    return LENSNET_OK;
}

/* --- labels ------------------------------------------------------------------------------------ */

static void lnp_default_label(char *text, size_t capacity, size_t index, size_t classes)
{
    static const char *const dark_matter[3] = {"no", "sphere", "vort"};
    if (classes == 3)
        snprintf(text, capacity, "%s", dark_matter[index]);
    else
        snprintf(text, capacity, "class %zu", index);
}

static size_t lnp_label_length(const lensnet_model_desc *d, size_t index)
{
    char text[40];
    if (d->labels) return strlen(d->labels[index]);
    lnp_default_label(text, sizeof text, index, d->classes);
    return strlen(text);
}

/* Copies the labels of `model->desc`, or the default ones, and lets the description own them. */
static lensnet_result lnp_model_take_labels(lensnet_model *model, lensnet_error *error)
{
    lensnet_model_desc *d = &model->desc;
    size_t i, bytes = d->classes * sizeof(char *);
    const char **table;
    char *text;
    for (i = 0; i < d->classes; i++) {
        if (d->labels && !d->labels[i])
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model: label %zu is NULL", i);
        if (!lnp_sum(bytes, lnp_label_length(d, i) + 1, &bytes))
            return lnp_fail(error, LENSNET_ERROR_MEMORY, "model: labels are too long");
    }
    model->labels = (char *)lnp_allocate(&model->host, bytes);
    if (!model->labels) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for labels");
    model->labels_bytes = bytes;
    table = (const char **)(void *)model->labels;
    text = model->labels + d->classes * sizeof(char *);
    for (i = 0; i < d->classes; i++) {
        size_t length = lnp_label_length(d, i);
        if (d->labels)
            memcpy(text, d->labels[i], length + 1);
        else
            lnp_default_label(text, length + 1, i, d->classes);
        table[i] = text;
        text += length + 1;
    }
    d->labels = table;
    return LENSNET_OK;
}

/* --- creation ---------------------------------------------------------------------------------- */

static lensnet_initial lnp_role_initial(lnp_role role)
{
    switch (role) {
    case LNP_STEM_NORM_WEIGHT:
    case LNP_DOWN_NORM_WEIGHT:
    case LNP_BLOCK_NORM_WEIGHT:
    case LNP_NORM_WEIGHT: return LENSNET_INITIAL_ONE;
    case LNP_STEM_CONV_WEIGHT:
    case LNP_DOWN_CONV_WEIGHT:
    case LNP_BLOCK_DEPTHWISE_WEIGHT:
    case LNP_BLOCK_EXPAND_WEIGHT:
    case LNP_BLOCK_REDUCE_WEIGHT:
    case LNP_HEAD_WEIGHT: return LENSNET_INITIAL_NORMAL_002;
    default: return LENSNET_INITIAL_ZERO;
    }
}

static void lnp_model_add_parameters(lensnet_model *model)
{
    lnp_net net = lnp_net_of(&model->desc);
    lnp_slot slot = lnp_first_slot();
    memcpy(model->stages, net.widths, sizeof model->stages);
    model->features = net.widths[3];
    do {
        char name[LNP_NAME_CAPACITY];
        size_t shape[4] = {0, 0, 0, 0};
        lnp_role_name(name, sizeof name, slot.role, slot.stage, slot.block);
        lnp_role_shape(shape, slot.role, slot.stage, &net);
        lensnet_parameter_add(model->parameters, name, shape[0], shape[1], shape[2], shape[3],
                              lnp_role_initial(slot.role));
    } while (lnp_slot_next(&slot, &net));
}

/* The same for another network. */
static lensnet_result lnp_model_add_sketched(lensnet_model *model, lensnet_error *error)
{
    lnp_sketch sketch;
    lensnet_result result = lnp_sketch_input(&sketch, &model->desc, error);
    size_t i, shape[4];
    int d;
    for (i = 0; !result && i < sketch.parameters->count; i++) {
        const lnp_weight *w = &sketch.parameters->weights[i];
        for (d = 0; d < 4; d++) shape[d] = d < w->rank ? w->shape[d] : 0;
        if (w->statistic)
            lensnet_statistic_add(model->parameters, w->name, shape[0], w->initial);
        else
            lensnet_parameter_add(model->parameters, w->name, shape[0], shape[1], shape[2],
                                  shape[3], w->initial);
    }
    for (i = 0; !result && i < 4; i++)
        lensnet_tensor_shape(sketch.graph, sketch.network.stages[i], NULL, NULL, &model->stages[i]);
    if (!result)
        lensnet_tensor_shape(sketch.graph, sketch.network.features, NULL, NULL, &model->features);
    lnp_sketch_end(&sketch);
    for (i = 0; !result && i < model->desc.head_count; i++)
        if (model->heads[i].stage < 4 && !model->stages[model->heads[i].stage])
            return lnp_fail(error, LENSNET_ERROR_UNSUPPORTED,
                            "%.100s has no map for the head \"%s\": its stages are not images",
                            model->desc.architecture->name, model->heads[i].name);
    return result;
}

/* They come last, so that the network's own have the same places with and without them. */
static void lnp_model_add_heads(lensnet_model *model)
{
    static const char *const parts[4] = {"layernorm.weight", "layernorm.bias", "weight", "bias"};
    static const lensnet_initial initials[4] = {LENSNET_INITIAL_ONE, LENSNET_INITIAL_ZERO,
                                                LENSNET_INITIAL_NORMAL_002, LENSNET_INITIAL_ZERO};
    size_t i, part;
    for (i = 0; i < model->desc.head_count; i++) {
        const lensnet_head *h = &model->heads[i];
        const size_t c = h->stage < 4 ? model->stages[h->stage] : model->features;
        for (part = h->stage < 4 ? 0 : 2; part < 4; part++) {
            char name[LNP_NAME_CAPACITY];
            snprintf(name, sizeof name, LNP_STATE_PREFIX "heads.%s.%s", h->name, parts[part]);
            lensnet_parameter_add(model->parameters, name, part < 2 ? c : h->outputs,
                                  part == 2 ? c : 0, 0, 0, initials[part]);
        }
    }
}

static size_t lnp_head_parameters(const lensnet_model_desc *d)
{
    size_t i, count = 0;
    for (i = 0; i < d->head_count; i++) count += d->heads[i].stage < 4 ? 4 : 2;
    return count;
}

/* Everything but the values. */
static lensnet_result lnp_model_begin(lensnet_model **result_model, const lensnet_model_desc *desc,
                                      lensnet_error *error)
{
    lensnet_host host = desc->host ? *desc->host : lensnet_host_defaults();
    lensnet_result result = lnp_model_desc_check(desc, error);
    lensnet_model *model;
    if (result) return result;
    model = (lensnet_model *)lnp_allocate(&host, sizeof *model);
    if (!model) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for a model");
    memset(model, 0, sizeof *model);
    model->host = host;
    model->desc = *desc;
    model->desc.host = &model->host;
    if (desc->head_count) memcpy(model->heads, desc->heads, desc->head_count * sizeof *desc->heads);
    model->desc.heads = model->heads;
    result = lnp_model_take_labels(model, error);
    if (!result) result = lensnet_parameters_create(&model->parameters, &host, error);
    if (!result && desc->architecture) result = lnp_model_add_sketched(model, error);
    if (!result) {
        if (!desc->architecture) lnp_model_add_parameters(model);
        lnp_model_add_heads(model);
        if (model->parameters->failure.code)
            result = lnp_fail(error, model->parameters->failure.code, "%s",
                              model->parameters->failure.text);
    }
    if (result) {
        lensnet_model_destroy(model);
        return result;
    }
    *result_model = model;
    return LENSNET_OK;
}

lensnet_result lensnet_model_create(lensnet_model **model, const lensnet_model_desc *desc,
                                    lensnet_error *error)
{
    lensnet_model_desc defaults = lensnet_model_defaults();
    lensnet_result result;
    if (!model) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model: NULL result pointer");
    *model = NULL;
    if (!desc) desc = &defaults;
    result = lnp_model_begin(model, desc, error);
    if (result) return result;
    result = lensnet_parameters_allocate((*model)->parameters, desc->gradients, desc->seed, error);
    if (result) {
        lensnet_model_destroy(*model);
        *model = NULL;
    }
    return result;
}

void lensnet_model_destroy(lensnet_model *model)
{
    lensnet_host host;
    if (!model) return;
    host = model->host;
    lensnet_parameters_destroy(model->parameters);
    lnp_release(&host, model->labels, model->labels_bytes);
    lnp_release(&host, model, sizeof *model);
}

const lensnet_model_desc *lensnet_model_description(const lensnet_model *model)
{
    return model ? &model->desc : NULL;
}

lensnet_parameters *lensnet_model_parameters(lensnet_model *model)
{
    return model ? model->parameters : NULL;
}

/* What AdamW multiplies the rate of a slot's tensor by. */
static double lnp_slot_rate(const lnp_slot *slot, const int depths[4], lensnet_layer_decay kind,
                            double decay, int frozen)
{
    const int stage = (int)slot->stage;
    const int last = slot->role == LNP_NORM_WEIGHT || slot->role == LNP_NORM_BIAS ||
                     lnp_role_is_head(slot->role);
    if (last) return 1.0;
    if (stage < frozen) return 0.0;
    return lensnet_layer_scale(kind, decay, depths, stage,
                               slot->role >= LNP_BLOCK_DEPTHWISE_WEIGHT ? (int)slot->block
                                                                        : LENSNET_LAYER_DOWNSAMPLE);
}

lensnet_result lensnet_model_rates(float *rates, const lensnet_model *model,
                                   lensnet_layer_decay kind, double decay, int frozen,
                                   lensnet_error *error)
{
    lnp_slot slot = lnp_first_slot();
    lnp_net net;
    int depths[4], s;
    size_t i = 0;
    if (!rates || !model || !(decay > 0 && decay <= 1) || frozen < 0 || frozen > 4)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "model rates: NULL, a decay of %g (expected 0 < decay <= 1) or %d frozen "
                        "stages (expected 0 ... 4)",
                        decay, frozen);
    if (model->desc.architecture) {
        if (decay < 1 || frozen)
            return lnp_fail(error, LENSNET_ERROR_UNSUPPORTED,
                            "model rates: which layers are deeper is known of ConvNeXt V2 alone, "
                            "not of %.100s; "
                            "leave the decay at 1 and freeze no stage",
                            model->desc.architecture->name);
        for (i = 0; i < model->parameters->count; i++) rates[i] = 1.0f;
        return LENSNET_OK;
    }
    net = lnp_net_of(&model->desc);
    for (s = 0; s < 4; s++) depths[s] = (int)net.depths[s];
    do rates[i++] = (float)lnp_slot_rate(&slot, depths, kind, decay, frozen);
    while (lnp_slot_next(&slot, &net));
    while (i < model->parameters->count) rates[i++] = 1.0f;
    return LENSNET_OK;
}

/* --- the network ------------------------------------------------------------------------------- */

/* Hands out the parameters in their order, as the network asks for them. */
typedef struct lnp_recorder {
    lensnet_graph *g;
    int next;
    size_t blocks, block; /* in all, and recorded so far */
} lnp_recorder;

static lensnet_parameter lnp_next(lnp_recorder *r)
{
    lensnet_parameter p;
    p.index = r->next++;
    return p;
}

static lensnet_tensor lnp_record_norm(lnp_recorder *r, lensnet_tensor x, float epsilon)
{
    lensnet_parameter weight = lnp_next(r), bias = lnp_next(r);
    return lensnet_layer_norm(r->g, x, weight, bias, epsilon);
}

/* Non-overlapping patches of `size` pixels become one. */
static lensnet_tensor lnp_record_patches(lnp_recorder *r, lensnet_tensor x, size_t size)
{
    lensnet_conv2d_desc desc = lensnet_conv2d_defaults();
    lensnet_parameter weight = lnp_next(r), bias = lnp_next(r);
    desc.stride = size;
    return lensnet_conv2d(r->g, x, weight, bias, &desc);
}

/* The same block from plain operators. */
static lensnet_tensor lnp_record_plain_block(lensnet_graph *g, lensnet_tensor x,
                                             const lensnet_parameter *p, size_t channels,
                                             float rate)
{
    lensnet_conv2d_desc depthwise = lensnet_conv2d_defaults();
    lensnet_tensor y;
    depthwise.padding = 3;
    depthwise.groups = channels;
    y = lensnet_conv2d(g, x, p[LNP_B_DEPTHWISE], p[LNP_B_DEPTHWISE_BIAS], &depthwise);
    y = lensnet_layer_norm(g, y, p[LNP_B_NORM], p[LNP_B_NORM_BIAS], lnp_block_norm_epsilon);
    y = lensnet_linear(g, y, p[LNP_B_EXPAND], p[LNP_B_EXPAND_BIAS]);
    y = lensnet_gelu(g, y);
    y = lensnet_grn(g, y, p[LNP_B_GAMMA], p[LNP_B_BETA]);
    y = lensnet_linear(g, y, p[LNP_B_REDUCE], p[LNP_B_REDUCE_BIAS]);
    y = lensnet_drop_path(g, y, rate);
    return lensnet_add(g, x, y);
}

static lensnet_tensor lnp_record_next_block(lnp_recorder *r, lensnet_tensor x,
                                            const lensnet_model_desc *d, size_t stage)
{
    lensnet_parameter p[LNP_BLOCK_PARAMETERS];
    float rate =
        r->blocks > 1 ? d->drop_path_rate * (float)r->block / (float)(r->blocks - 1) : 0.0f;
    int i;
    for (i = 0; i < LNP_BLOCK_PARAMETERS; i++) p[i] = lnp_next(r);
    r->block++;
    return r->g->options.plain ? lnp_record_plain_block(r->g, x, p, d->widths[stage], rate)
                               : lnp_record_block(r->g, x, p, rate);
}

/* A stage: downsampling (of the images by 4, of later stages by 2), then its blocks. */
static lensnet_tensor lnp_record_stage(lnp_recorder *r, lensnet_tensor x,
                                       const lensnet_model_desc *d, size_t stage)
{
    const float epsilon = 1e-6f;
    size_t block;
    if (stage == 0) {
        x = lnp_record_patches(r, x, 4);
        x = lnp_record_norm(r, x, epsilon);
    } else {
        x = lnp_record_norm(r, x, epsilon);
        x = lnp_record_patches(r, x, 2);
    }
    for (block = 0; block < d->depths[stage]; block++) x = lnp_record_next_block(r, x, d, stage);
    return x;
}

/* A head, in float32: what it costs is nothing, what it rounds would be seen. */
static lensnet_tensor lnp_record_linear(lnp_recorder *r, lensnet_tensor x)
{
    lensnet_parameter weight = lnp_next(r), bias = lnp_next(r);
    const lensnet_precision precision = r->g->precision;
    lensnet_tensor y;
    lensnet_graph_set_precision(r->g, LENSNET_PRECISION_FP32);
    y = lensnet_linear(r->g, x, weight, bias);
    lensnet_graph_set_precision(r->g, precision);
    return y;
}

static void lnp_record_heads(lnp_recorder *r, lensnet_network *net, const lensnet_model_desc *d)
{
    size_t i;
    for (i = 0; i < LENSNET_HEADS; i++) {
        lensnet_tensor x = net->features;
        net->heads[i] = lnp_no_tensor();
        if (i >= d->head_count || !r->g->options.training) continue;
        if (d->heads[i].stage < 4) x = lnp_record_norm(r, net->stages[d->heads[i].stage], 1e-6f);
        net->heads[i] = lnp_record_linear(r, x);
    }
}

static void lnp_record_nothing(lensnet_network *net)
{
    size_t i;
    for (i = 0; i < 4; i++) net->stages[i] = lnp_no_tensor();
    for (i = 0; i < LENSNET_HEADS; i++) net->heads[i] = lnp_no_tensor();
    net->features = net->logits = lnp_no_tensor();
}

/* Another network; its heads' weights follow its own. */
static lensnet_network lnp_record_architecture(lensnet_graph *g, const lensnet_model_desc *d,
                                               lensnet_tensor *pooled, size_t stage)
{
    const lensnet_tensor images = lensnet_input(g, (size_t)d->preprocess.channels);
    lensnet_network net;
    lnp_recorder r;
    memset(&r, 0, sizeof r);
    lnp_record_nothing(&net);
    d->architecture->record(&net, g, g->parameters, images, d, d->architecture->details);
    if (d->drop_path_rate > 0 && !g->drop_paths && !g->failure.code)
        lnp_fail(&g->failure, LENSNET_ERROR_UNSUPPORTED,
                 "%.100s has no blocks that a drop path could skip: its rate must be 0",
                 d->architecture->name);
    if (pooled)
        *pooled =
            net.stages[stage].index < 0 ? net.features : lensnet_mean_pool(g, net.stages[stage]);
    r.g = g;
    r.next = (int)(g->parameters->count - lnp_head_parameters(d));
    if (g->options.training) lnp_record_heads(&r, &net, d);
    return net;
}

/* Stem, four stages with downsampling between, pooled and normalised features, logits, heads. *pooled
 * (may be NULL): the mean over the map of `stage`, before it is normalised. */
static lensnet_network lnp_record_network(lensnet_graph *g, const lensnet_model_desc *d,
                                          lensnet_tensor *pooled, size_t stage)
{
    lensnet_network net;
    lnp_recorder r;
    lensnet_tensor x;
    size_t i;
    if (d->architecture) return lnp_record_architecture(g, d, pooled, stage);
    memset(&r, 0, sizeof r);
    r.g = g;
    for (i = 0; i < 4; i++) r.blocks += d->depths[i];
    x = lensnet_input(g, (size_t)d->preprocess.channels);
    for (i = 0; i < 4; i++) {
        x = net.stages[i] = lnp_record_stage(&r, x, d, i);
        if (pooled && i == stage && i < 3) *pooled = lensnet_mean_pool(g, x);
    }
    x = lensnet_mean_pool(g, x);
    if (pooled && stage == 3) *pooled = x;
    net.features = lnp_record_norm(&r, x, d->final_norm_epsilon);
    net.logits = lnp_record_linear(&r, net.features);
    lnp_record_heads(&r, &net, d);
    return net;
}

lensnet_network lensnet_model_record(lensnet_graph *graph, const lensnet_model *model)
{
    lensnet_network net;
    uint64_t mode;
    if (graph && model && graph->parameters == model->parameters && !graph->node_count) {
        mode = lnp_mode_enter(); /* drop path's rates are computed here */
        net = lnp_record_network(graph, &model->desc, NULL, 3);
        lnp_mode_leave(mode);
        return net;
    }
    if (graph && !graph->failure.code)
        lnp_fail(&graph->failure, LENSNET_ERROR_ARGUMENT,
                 "model record: expected an empty graph over the model's own parameters");
    lnp_record_nothing(&net);
    return net;
}

lensnet_result lensnet_model_graph(lensnet_graph **graph, lensnet_model *model,
                                   const lensnet_graph_options *options, const lensnet_loss *loss,
                                   lensnet_error *error)
{
    lensnet_graph_options defaults = lensnet_graph_defaults();
    lensnet_result result;
    if (!graph) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model graph: NULL result pointer");
    *graph = NULL;
    if (!model) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model graph: the model is NULL");
    if (!options) options = &defaults;
    if (!model->desc.architecture && (options->height < 32 || options->width < 32))
        return lnp_fail(
            error, LENSNET_ERROR_SHAPE,
            "ConvNeXt V2 divides images by 32: %zu x %zu pixels are too few, 32 x 32 is "
            "the least",
            options->height, options->width);
    result = lensnet_graph_create(graph, model->parameters, options, error);
    if (result) return result;
    lensnet_cross_entropy(*graph, lensnet_model_record(*graph, model).logits, loss);
    if ((*graph)->failure.code) {
        result = lnp_fail(error, (*graph)->failure.code, "%s", (*graph)->failure.text);
        lensnet_graph_destroy(*graph);
        *graph = NULL;
    }
    return result;
}

/* --- files ------------------------------------------------------------------------------------- */

#define LNP_KEY_STEP      "lensnet.step"
#define LNP_FIRST_MOMENT  "lensnet.exp_avg."
#define LNP_SECOND_MOMENT "lensnet.exp_avg_sq."
#define LNP_AVERAGE       "lensnet.average."

/* --- another network's tensors: under the names that it asks for --- */

static int lnp_is_counter(const char *name) { return lnp_ends_in(name, ".num_batches_tracked"); }

static const lensnet_archive_entry *lnp_other_find(const lnp_checkpoint *file, const char *name)
{
    char full[LNP_PREFIX + LNP_TENSOR_NAME];
    snprintf(full, sizeof full, "%s%s", file->prefix, name);
    return lensnet_archive_find(file->archive, full);
}

/* The tensor of a weight, in its shape. */
static lensnet_result lnp_other_entry(const lensnet_archive_entry **entry,
                                      const lnp_checkpoint *file, const lnp_weight *w,
                                      lensnet_error *error)
{
    *entry = lnp_other_find(file, w->name);
    if (!*entry)
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "'%.160s' is said to be a %.60s, but it has no tensor '%.100s'",
                        file->archive->path, file->architecture->name, w->name);
    return lnp_shape_fits(*entry, w->shape, w->rank)
               ? lnp_checkpoint_check_numbers(file, *entry, error)
               : lnp_checkpoint_shape_error(file, *entry, w->shape, w->rank, error);
}

/* Is it the classifier's? Its weight and bias come last, `heads` weights apart. */
static int lnp_is_last(const lensnet_parameters *p, size_t index, size_t heads)
{
    return index + heads + 2 >= p->count;
}

/* Is every tensor of the archive one of the table's? */
static lensnet_result lnp_other_unexpected(const lnp_checkpoint *file, const lensnet_parameters *p,
                                           lensnet_error *error)
{
    const size_t length = strlen(file->prefix);
    size_t i, k;
    for (i = 0; i < file->archive->count; i++) {
        const char *name = file->archive->entries[i].name;
        const int inside = !strncmp(name, file->prefix, length);
        lnp_quoted quoted;
        if (lnp_is_state_name(name) || lnp_is_counter(name) || (file->chosen && !inside)) continue;
        for (k = 0; inside && k < p->count; k++)
            if (!strcmp(name + length, p->weights[k].name)) break;
        if (!inside || k == p->count)
            return lnp_fail(error, LENSNET_ERROR_FORMAT,
                            "'%.160s' is said to be a %.60s, which has no tensor '%s'",
                            file->archive->path, file->architecture->name,
                            lnp_quote(&quoted, name));
    }
    return LENSNET_OK;
}

/* What stands before the names: before the shortest that ends like the first weight's. */
static void lnp_other_prefix(lnp_checkpoint *file, const char *first, const char *wanted)
{
    size_t i, shortest = sizeof file->prefix;
    file->chosen = wanted != NULL;
    snprintf(file->prefix, sizeof file->prefix, "%s", wanted ? wanted : "");
    for (i = 0; !wanted && i < file->archive->count; i++) {
        const char *name = file->archive->entries[i].name;
        const size_t length = strlen(name) - lnp_min(strlen(first), strlen(name));
        if (!lnp_ends_in(name, first) || length >= shortest || lnp_is_state_name(name)) continue;
        if (length && name[length - 1] != '.') continue;
        shortest = length;
        memcpy(file->prefix, name, length);
        file->prefix[length] = 0;
    }
}

/* The archive as one of the network `a`: all its tensors by name, and no others; channels and classes. */
static lensnet_result lnp_other_open(lnp_checkpoint *file, const lensnet_archive *archive,
                                     const lensnet_architecture *a, const char *prefix,
                                     lensnet_error *error)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    const lensnet_archive_entry *first = NULL, *last = NULL;
    lnp_sketch sketch;
    lensnet_result result;
    size_t i, count;
    memset(file, 0, sizeof *file);
    file->archive = archive;
    file->architecture = desc.architecture = a;
    file->has_norm = 1;
    desc.host = &archive->host;
    result = lnp_sketch_input(&sketch, &desc, error);
    count = result ? 0 : sketch.parameters->count;
    if (count) lnp_other_prefix(file, sketch.parameters->weights[0].name, prefix);
    if (count > 1) last = lnp_other_find(file, sketch.parameters->weights[count - 2].name);
    file->has_head = last != NULL;
    for (i = 0; i < count && !result; i++) {
        const lensnet_archive_entry *entry =
            lnp_other_find(file, sketch.parameters->weights[i].name);
        if (i == 0) first = entry;
        if (!entry && (file->has_head || !lnp_is_last(sketch.parameters, i, 0)))
            result = lnp_other_entry(&entry, file, &sketch.parameters->weights[i], error);
    }
    if (!result) result = lnp_other_unexpected(file, sketch.parameters, error);
    lnp_sketch_end(&sketch);
    if (result) return result;
    if (first->rank < 2 || first->shape[1] < 1 || first->shape[1] > LNP_WIDTH_MAX ||
        (last && (last->rank < 1 || last->shape[0] < 1 || last->shape[0] > LNP_WIDTH_MAX)))
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "'%.160s': its first or last layer has an impossible shape", archive->path);
    file->net.channels = (size_t)first->shape[1];
    file->net.classes = last ? (size_t)last->shape[0] : 0;
    return LENSNET_OK;
}

/* Has every tensor the shape that the network asks for? */
static lensnet_result lnp_other_check(const lnp_checkpoint *file, const lensnet_model_desc *desc,
                                      lensnet_error *error)
{
    const lensnet_archive_entry *entry;
    lnp_sketch sketch;
    lensnet_result result = lnp_sketch_input(&sketch, desc, error);
    size_t i;
    for (i = 0; !result && i < sketch.parameters->count; i++)
        if (file->has_head || !lnp_is_last(sketch.parameters, i, 0))
            result = lnp_other_entry(&entry, file, &sketch.parameters->weights[i], error);
    lnp_sketch_end(&sketch);
    return result;
}

static lensnet_result lnp_other_match(lensnet_model *model, const lnp_checkpoint *file,
                                      int head_fits, lensnet_error *error)
{
    lensnet_parameters *p = model->parameters;
    const size_t heads = lnp_head_parameters(&model->desc);
    lensnet_result result = LENSNET_OK;
    size_t i;
    for (i = 0; !result && i + heads < p->count; i++) {
        if (lnp_is_last(p, i, heads) && !head_fits) break;
        result = lnp_other_entry(&p->weights[i].given, file, &p->weights[i], error);
    }
    return result;
}

/* Which of the networks an archive is of, by what is said; NULL: ConvNeXt V2, or nobody says. A name that stands in
 * a config.json alone may be another program's. */
static lensnet_result lnp_architecture_said(const lensnet_architecture **a, const lnp_sources *s,
                                            const lensnet_architecture *known, size_t count,
                                            lensnet_error *error)
{
    const char *name = lnp_said(s, LNP_KEY_ARCHITECTURE);
    lnp_quoted quoted;
    size_t i;
    *a = NULL;
    if (!name || !strncmp(name, "convnextv2", 10)) return LENSNET_OK;
    for (i = 0; i < count; i++)
        if (!strcmp(known[i].name, name)) *a = &known[i];
    if (*a || lnp_is_from_config(s, LNP_KEY_ARCHITECTURE)) return LENSNET_OK;
    return lnp_fail(error, LENSNET_ERROR_UNSUPPORTED, "'%.160s' is a %s, and this program knows %s",
                    s->file->archive->path, lnp_quote(&quoted, name),
                    count ? "no such network"
                          : "ConvNeXt V2 alone (examples/backbones.h has others)");
}

/* The archive as what it says that it is, or as a ConvNeXt V2, else as the first network that has tensors of these
 * names. */
static lensnet_result lnp_checkpoint_find_out(lnp_checkpoint *file, const lnp_sources *s,
                                              const lensnet_architecture *known, size_t count,
                                              lensnet_error *error)
{
    const lensnet_archive *archive = file->archive;
    const char *prefix = lnp_pair_value(s->told, s->told_count, "lensnet.prefix");
    const lensnet_architecture *a;
    lensnet_result result = lnp_architecture_said(&a, s, known, count, error);
    size_t i;
    if (result) return result;
    if (a) return lnp_other_open(file, archive, a, prefix, error);
    result = lnp_checkpoint_open(file, archive, prefix, error);
    for (i = 0; i < count && result && result != LENSNET_ERROR_MEMORY; i++) {
        const lensnet_result other = lnp_other_open(file, archive, &known[i], prefix, NULL);
        if (!other) return LENSNET_OK;
        if (other == LENSNET_ERROR_MEMORY)
            result = lnp_no_memory(error, "a network", archive->path);
    }
    return result;
}

/* Notes for every weight which tensor of the file it is; none: it will have its initial values. */
static lensnet_result lnp_model_match(lensnet_model *model, const lnp_checkpoint *file,
                                      int head_fits, lensnet_error *error)
{
    lnp_net net = lnp_net_of(&model->desc);
    lnp_slot slot = lnp_first_slot();
    lnp_weight *w = model->parameters->weights;
    if (file->architecture) return lnp_other_match(model, file, head_fits, error);
    do {
        if (head_fits || !lnp_role_is_head(slot.role))
            w->given = lnp_checkpoint_find(file, slot.role, slot.stage, slot.block);
        w++;
    } while (lnp_slot_next(&slot, &net));
    return LENSNET_OK;
}

static lensnet_result lnp_model_read(lensnet_model *model, const lensnet_archive *archive,
                                     lensnet_error *error)
{
    lensnet_parameters *p = model->parameters;
    lensnet_result result = LENSNET_OK;
    size_t i;
    for (i = 0; !result && i < p->count; i++) {
        lnp_weight *w = &p->weights[i];
        if (w->given)
            result = lensnet_archive_read_float(p->values + w->offset, archive, w->given, error);
        w->given = NULL;
    }
    return result;
}

lensnet_load_options lensnet_load_defaults(void)
{
    lensnet_load_options o;
    memset(&o, 0, sizeof o);
    o.gradients = 1;
    return o;
}

static void lnp_apply_load_options(lensnet_model_desc *desc, const lensnet_load_options *o)
{
    if (o->classes) {
        if (o->classes != desc->classes || o->labels) desc->labels = o->labels;
        desc->classes = o->classes;
    }
    if (o->preprocess) {
        int channels = desc->preprocess.channels;
        desc->preprocess = *o->preprocess;
        desc->preprocess.channels = channels;
    }
    desc->drop_path_rate = o->drop_path_rate;
    desc->seed = o->seed;
    desc->gradients = o->gradients;
    desc->heads = o->heads;
    desc->head_count = o->head_count;
    desc->host = o->host;
}

const char *lensnet_model_notes(const lensnet_model *model) { return model ? model->notes : ""; }

/* What the archive holds and what is known of it; `sources` is to be released in any case. */
static lensnet_result lnp_describe_archive(lensnet_model_desc *desc, lnp_checkpoint *file,
                                           lnp_sources *sources, const lensnet_archive *archive,
                                           const lensnet_archive_pair *told, size_t told_count,
                                           const lensnet_architecture *known, size_t known_count,
                                           lensnet_error *error)
{
    const lensnet_host host = lnp_host_copy(desc->host);
    lensnet_result result;
    memset(sources, 0, sizeof *sources);
    memset(file, 0, sizeof *file);
    file->archive = archive;
    sources->file = file;
    sources->told = told;
    sources->told_count = told_count;
    result = lnp_config_open(&sources->config, archive, error);
    if (!result) result = lnp_checkpoint_find_out(file, sources, known, known_count, error);
    if (!result) result = lnp_sources_read(sources, desc, &host, error);
    return result || !file->architecture ? result : lnp_other_check(file, desc, error);
}

lensnet_result lensnet_model_load_archive(lensnet_model **model, const lensnet_archive *archive,
                                          const lensnet_load_options *options, int *fresh_head,
                                          lensnet_error *error)
{
    lensnet_load_options defaults = lensnet_load_defaults();
    lensnet_model_desc desc = lensnet_model_defaults();
    lnp_checkpoint file;
    lnp_sources sources;
    int head_fits = 0;
    lensnet_result result;
    *model = NULL;
    if (!options) options = &defaults;
    desc.host = options->host;
    result =
        lnp_describe_archive(&desc, &file, &sources, archive, options->told, options->told_count,
                             options->architectures, options->architecture_count, error);
    if (!result) {
        lnp_apply_load_options(&desc, options);
        result = lnp_model_begin(model, &desc, error);
    }
    if (!result) memcpy((*model)->notes, sources.notes_text, sizeof(*model)->notes);
    lnp_sources_release(&sources);
    if (result) return result;
    head_fits = file.has_head && file.net.classes == (*model)->desc.classes;
    result = lnp_model_match(*model, &file, head_fits, error);
    if (!result)
        result =
            lensnet_parameters_allocate((*model)->parameters, desc.gradients, desc.seed, error);
    if (!result) result = lnp_model_read(*model, archive, error);
    if (result) {
        lensnet_model_destroy(*model);
        *model = NULL;
    } else if (fresh_head) {
        *fresh_head = !head_fits;
    }
    return result;
}

lensnet_result lensnet_model_load(lensnet_model **model, const char *path,
                                  const lensnet_load_options *options, int *fresh_head,
                                  lensnet_error *error)
{
    lensnet_load_options defaults = lensnet_load_defaults();
    lensnet_archive *archive;
    lensnet_result result;
    if (!model) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model: NULL result pointer");
    *model = NULL;
    if (!options) options = &defaults;
    result = lensnet_archive_open(&archive, path, options->host, error);
    if (result) return result;
    result = lensnet_model_load_archive(model, archive, options, fresh_head, error);
    lensnet_archive_close(archive);
    return result;
}

/* What a file says beside the numbers. */
#define LNP_PAIRS 18
typedef struct lnp_metadata {
    lensnet_host host;
    lensnet_archive_pair pairs[LNP_PAIRS];
    size_t count;
    char *labels;
    size_t labels_bytes;
    char numbers[10][16 * LENSNET_BANDS_LIMIT];
} lnp_metadata;

static void lnp_metadata_put(lnp_metadata *m, const char *key, const char *value)
{
    m->pairs[m->count].key = key;
    m->pairs[m->count++].value = value;
}

static lensnet_result lnp_metadata_labels(lnp_metadata *m, const lensnet_model_desc *d,
                                          lensnet_error *error)
{
    size_t i;
    char *to;
    for (i = 0; i < d->classes; i++) m->labels_bytes += strlen(d->labels[i]) + 1;
    m->labels = (char *)lnp_allocate(&m->host, m->labels_bytes);
    if (!m->labels) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for labels");
    for (i = 0, to = m->labels; i < d->classes; i++) {
        size_t length = strlen(d->labels[i]);
        if (strchr(d->labels[i], '\n'))
            return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "label %zu holds a line break", i);
        memcpy(to, d->labels[i], length);
        to[length] = i + 1 < d->classes ? '\n' : '\0';
        to += length + 1;
    }
    lnp_metadata_put(m, lnp_key_names[LNP_KEY_LABELS], m->labels);
    return LENSNET_OK;
}

static void lnp_metadata_channels(lnp_metadata *m, int line, lnp_key key, const float *values,
                                  int channels)
{
    lnp_text text = lnp_text_in(m->numbers[line], sizeof m->numbers[line]);
    int c;
    for (c = 0; c < channels; c++) {
        char digits[16];
        lnp_number_text(digits, sizeof digits, 9, (double)values[c]);
        if (c) lnp_text_char(&text, ' ');
        lnp_text_put(&text, digits);
    }
    lnp_metadata_put(m, lnp_key_names[key], m->numbers[line]);
}

static void lnp_metadata_whole(lnp_metadata *m, int line, const char *key, int number)
{
    snprintf(m->numbers[line], sizeof m->numbers[line], "%d", number);
    lnp_metadata_put(m, key, m->numbers[line]);
}

static void lnp_metadata_preprocess(lnp_metadata *m, const lensnet_preprocess *p)
{
    lnp_metadata_whole(m, 0, lnp_key_names[LNP_KEY_IMAGE_SIZE], p->image_size);
    if (p->crop) lnp_metadata_whole(m, 1, lnp_key_names[LNP_KEY_CROP], p->crop);
    if (p->resized) lnp_metadata_whole(m, 2, lnp_key_names[LNP_KEY_RESIZED], p->resized);
    lnp_metadata_put(m, lnp_key_names[LNP_KEY_NORMALISATION],
                     lensnet_normalisation_text(p->normalisation));
    lnp_metadata_put(m, lnp_key_names[LNP_KEY_RESIZE], lensnet_resize_text(p->resize));
    if (p->bands > 1) lnp_metadata_whole(m, 7, lnp_key_names[LNP_KEY_BANDS], p->bands);
    if (p->stretch)
        lnp_metadata_put(m, lnp_key_names[LNP_KEY_STRETCH], lensnet_stretch_text(p->stretch));
    if (p->source_size > 0)
        lnp_metadata_whole(m, 8, lnp_key_names[LNP_KEY_SOURCE_SIZE], p->source_size);
    if (p->pixel_scale > 0) {
        lnp_number_text(m->numbers[9], sizeof m->numbers[9], 17, p->pixel_scale);
        lnp_metadata_put(m, lnp_key_names[LNP_KEY_PIXEL_SCALE], m->numbers[9]);
    }
    if (p->normalisation != LENSNET_NORMALISATION_DATASET) return;
    lnp_metadata_channels(m, 3, LNP_KEY_MEAN, p->mean, p->channels);
    lnp_metadata_channels(m, 4, LNP_KEY_DEVIATION, p->deviation, p->channels);
}

/* `desc` has its labels. */
static lensnet_result lnp_metadata_begin(lnp_metadata *m, const lensnet_model_desc *d,
                                         lensnet_error *error)
{
    memset(m, 0, sizeof *m);
    m->host = lnp_host_copy(d->host);
    lnp_metadata_put(m, "format", "pt");
    lnp_metadata_whole(m, 5, "lensnet.numerics", LENSNET_NUMERICS);
    lnp_number_text(m->numbers[6], sizeof m->numbers[6], 9, (double)d->final_norm_epsilon);
    lnp_metadata_put(m, lnp_key_names[LNP_KEY_EPSILON], m->numbers[6]);
    if (d->views != 8)
        lnp_metadata_put(m, lnp_key_names[LNP_KEY_VIEWS],
                         d->views == 1   ? "1"
                         : d->views == 2 ? "2"
                                         : "4");
    if (d->architecture)
        lnp_metadata_put(m, lnp_key_names[LNP_KEY_ARCHITECTURE], d->architecture->name);
    lnp_metadata_preprocess(m, &d->preprocess);
    lnp_metadata_put(m, LENSNET_ARCHIVE_CHECKSUMS, NULL);
    return lnp_metadata_labels(m, d, error);
}

static void lnp_metadata_end(lnp_metadata *m) { lnp_release(&m->host, m->labels, m->labels_bytes); }

static void lnp_describe_tensor(lensnet_archive_tensor *t, const char *name, const lnp_weight *w,
                                const float *values, lensnet_dtype dtype)
{
    int i;
    memset(t, 0, sizeof *t);
    t->name = name;
    t->dtype = dtype;
    t->rank = w->rank;
    for (i = 0; i < w->rank; i++) t->shape[i] = w->shape[i];
    t->values = values;
}

lensnet_result lensnet_model_save(const lensnet_model *model, const char *path, lensnet_dtype dtype,
                                  lensnet_error *error)
{
    const lensnet_parameters *p;
    lensnet_archive_tensor *tensors;
    lnp_metadata metadata;
    lensnet_result result;
    size_t i, count;
    if (!model || !path) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "model save: NULL");
    p = model->parameters;
    count = p->count - lnp_head_parameters(&model->desc);
    tensors = (lensnet_archive_tensor *)lnp_allocate(&model->host, count * sizeof *tensors);
    if (!tensors) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory while saving");
    for (i = 0; i < count; i++)
        lnp_describe_tensor(&tensors[i], p->weights[i].name, &p->weights[i],
                            p->values + p->weights[i].offset, dtype);
    result = lnp_metadata_begin(&metadata, &model->desc, error);
    if (!result)
        result = lensnet_archive_save(path, tensors, count, metadata.pairs, metadata.count,
                                      &model->host, error);
    lnp_metadata_end(&metadata);
    lnp_release(&model->host, tensors, count * sizeof *tensors);
    return result;
}

/* --- frozen models: what a classifier is made of ----------------------------------------------- */

/* lnp_supply from a checkpoint. */
typedef struct lnp_file_supply {
    const lnp_checkpoint *file;
    const lensnet_parameters *parameters;
    lnp_slot slot;
    lnp_net net;
} lnp_file_supply;

static lensnet_result lnp_supply_from_file(void *context, size_t index, float *values,
                                           lensnet_error *error)
{
    lnp_file_supply *s = (lnp_file_supply *)context;
    const lensnet_archive_entry *entry;
    if (s->file->architecture) {
        const lensnet_result result =
            lnp_other_entry(&entry, s->file, &s->parameters->weights[index], error);
        return result ? result : lensnet_archive_read_float(values, s->file->archive, entry, error);
    }
    entry = lnp_checkpoint_find(s->file, s->slot.role, s->slot.stage, s->slot.block);
    lnp_slot_next(&s->slot, &s->net);
    return lensnet_archive_read_float(values, s->file->archive, entry, error);
}

/* Records the network once, only to learn which form each weight is read in. */
static lensnet_result lnp_model_learn_uses(lensnet_model *model, lensnet_precision precision,
                                           lensnet_error *error)
{
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_graph *g;
    lensnet_result result;
    options.height = options.width = (size_t)model->desc.preprocess.image_size;
    options.batch = 1;
    options.precision = precision;
    result = lensnet_graph_create(&g, model->parameters, &options, error);
    if (result) return result;
    lensnet_output(g, lnp_record_network(g, &model->desc, NULL, 3).logits);
    if (g->failure.code) result = lnp_fail(error, g->failure.code, "%s", g->failure.text);
    lensnet_graph_destroy(g);
    return result;
}

static lensnet_result lnp_model_freeze(lensnet_model **model, const lensnet_archive *archive,
                                       const lensnet_classifier_options *options,
                                       const lensnet_host *host, lensnet_error *error)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    lnp_sources sources;
    lnp_checkpoint file;
    lnp_file_supply supply;
    lensnet_result result;
    desc.host = host;
    result =
        lnp_describe_archive(&desc, &file, &sources, archive, options->told, options->told_count,
                             options->architectures, options->architecture_count, error);
    if (!result && !(file.has_head && file.has_norm))
        result = lnp_fail(error, LENSNET_ERROR_FORMAT,
                          "'%.200s' has no classification head; train one first (examples/train.c)",
                          archive->path);
    if (!result && options->bands && options->bands != desc.preprocess.bands)
        result = lnp_fail(error, LENSNET_ERROR_SHAPE,
                          "'%.200s' takes images of %d bands, but will be given %d; options.bands "
                          "says how many",
                          archive->path, desc.preprocess.bands, options->bands);
    if (!result) result = lnp_model_begin(model, &desc, error);
    if (!result) memcpy((*model)->notes, sources.notes_text, sizeof(*model)->notes);
    lnp_sources_release(&sources);
    if (result) return result;
    supply.file = &file;
    supply.parameters = (*model)->parameters;
    (*model)->parameters->folds = 1;
    supply.slot = lnp_first_slot();
    supply.net = file.net;
    result = lnp_model_learn_uses(*model, options->precision, error);
    if (!result)
        result = lnp_parameters_freeze((*model)->parameters, lnp_supply_from_file, &supply, error);
    if (result) {
        lensnet_model_destroy(*model);
        *model = NULL;
    }
    return result;
}

/* --- training state ---------------------------------------------------------------------------- */

typedef struct lnp_state_name {
    char text[LNP_NAME_CAPACITY + 24];
} lnp_state_name;

/* What a state holds of every weight: the values, the moments and, where one is kept, the average. */
enum { LNP_STATE_PARTS = 4 };
static const char *const lnp_state_prefixes[LNP_STATE_PARTS] = {"", LNP_FIRST_MOMENT,
                                                                LNP_SECOND_MOMENT, LNP_AVERAGE};

static size_t lnp_state_parts(const lensnet_adamw *adamw)
{
    return adamw->average ? LNP_STATE_PARTS : LNP_STATE_PARTS - 1;
}

static float *lnp_state_part(const lensnet_adamw *adamw, size_t part)
{
    float *const parts[LNP_STATE_PARTS] = {adamw->parameters->values, adamw->first, adamw->second,
                                           adamw->average};
    return parts[part];
}

/* What is saved as a part: before the first step the average is a copy of the weights. */
static const float *lnp_state_source(const lensnet_adamw *adamw, size_t part)
{
    return lnp_state_part(adamw, adamw->steps || part < LNP_STATE_PARTS - 1 ? part : 0);
}

/* The tables of a state: `count` tensors, the pairs of model and caller. */
typedef struct lnp_state {
    lensnet_host host;
    lensnet_archive_tensor *tensors;
    lnp_state_name *names;
    lensnet_archive_pair *pairs;
    size_t count, pair_capacity;
} lnp_state;

static void lnp_state_end(lnp_state *s)
{
    lnp_release(&s->host, s->tensors, s->count * sizeof *s->tensors);
    lnp_release(&s->host, s->names, s->count * sizeof *s->names);
    lnp_release(&s->host, s->pairs, s->pair_capacity * sizeof *s->pairs);
}

static lensnet_result lnp_state_begin(lnp_state *s, const lensnet_model *model,
                                      const lensnet_adamw *adamw, size_t pairs,
                                      lensnet_error *error)
{
    memset(s, 0, sizeof *s);
    s->host = model->host;
    s->count = lnp_state_parts(adamw) * model->parameters->count;
    s->pair_capacity = pairs;
    s->tensors = (lensnet_archive_tensor *)lnp_allocate(&s->host, s->count * sizeof *s->tensors);
    s->names = (lnp_state_name *)lnp_allocate(&s->host, s->count * sizeof *s->names);
    s->pairs = (lensnet_archive_pair *)lnp_allocate(&s->host, pairs * sizeof *s->pairs);
    if (s->tensors && s->names && s->pairs) return LENSNET_OK;
    lnp_state_end(s);
    return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory while saving");
}

static void lnp_state_tensors(lnp_state *s, const lensnet_parameters *p, const lensnet_adamw *adamw)
{
    size_t i, part, at = 0;
    for (i = 0; i < p->count; i++)
        for (part = 0; part < lnp_state_parts(adamw); part++, at++) {
            const lnp_weight *w = &p->weights[i];
            snprintf(s->names[at].text, sizeof s->names->text, "%s%s", lnp_state_prefixes[part],
                     w->name);
            lnp_describe_tensor(&s->tensors[at], s->names[at].text, w,
                                lnp_state_source(adamw, part) + w->offset, LENSNET_DTYPE_F32);
        }
}

lensnet_result lensnet_state_save(const lensnet_model *model, const lensnet_adamw *adamw,
                                  const lensnet_archive_pair *pairs, size_t pair_count,
                                  const char *path, lensnet_error *error)
{
    lnp_metadata metadata;
    lnp_state state;
    char step[32];
    lensnet_result result;
    if (!model || !adamw || !path || (pair_count && !pairs) ||
        adamw->parameters != model->parameters)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "state save: NULL, or an optimiser of another model");
    if (adamw->swapped) return lnp_average_in_place(error);
    result = lnp_state_begin(&state, model, adamw, LNP_PAIRS + 1 + pair_count, error);
    if (result) return result;
    result = lnp_metadata_begin(&metadata, &model->desc, error);
    if (!result) {
        lnp_state_tensors(&state, model->parameters, adamw);
        snprintf(step, sizeof step, "%llu", (unsigned long long)adamw->steps);
        memcpy(state.pairs, metadata.pairs, metadata.count * sizeof *pairs);
        state.pairs[metadata.count].key = LNP_KEY_STEP;
        state.pairs[metadata.count].value = step;
        if (pair_count) memcpy(state.pairs + metadata.count + 1, pairs, pair_count * sizeof *pairs);
        result = lensnet_archive_save(path, state.tensors, state.count, state.pairs,
                                      metadata.count + 1 + pair_count, &model->host, error);
    }
    lnp_metadata_end(&metadata);
    lnp_state_end(&state);
    return result;
}

static lensnet_result lnp_state_read_tensor(float *values, const lensnet_archive *archive,
                                            const char *prefix, const lnp_weight *w,
                                            lensnet_error *error)
{
    lnp_state_name name;
    const lensnet_archive_entry *entry;
    snprintf(name.text, sizeof name.text, "%s%s", prefix, w->name);
    entry = lensnet_archive_find(archive, name.text);
    if (!entry || entry->count != w->size)
        return lnp_fail(error, LENSNET_ERROR_FORMAT,
                        "'%s': tensor \"%s\" is missing or has another size; expected the training "
                        "state of the same model",
                        archive->path, name.text);
    return lensnet_archive_read_float(values + w->offset, archive, entry, error);
}

/* Reads all of it into `buffer`, one part after the other. */
static lensnet_result lnp_state_read(float *buffer, const lensnet_adamw *adamw,
                                     const lensnet_archive *archive, lensnet_error *error)
{
    const lensnet_parameters *p = adamw->parameters;
    size_t i, part;
    for (part = 0; part < lnp_state_parts(adamw); part++)
        for (i = 0; i < p->count; i++) {
            lensnet_result result = lnp_state_read_tensor(
                buffer + part * p->size, archive, lnp_state_prefixes[part], &p->weights[i], error);
            if (result) return result;
        }
    return LENSNET_OK;
}

static lensnet_result lnp_state_steps(uint64_t *steps, const lensnet_archive *archive,
                                      lensnet_error *error)
{
    const char *text = lensnet_archive_metadata(archive, LNP_KEY_STEP);
    const char *numerics = lensnet_archive_metadata(archive, "lensnet.numerics");
    char *end;
    if (!text)
        return lnp_fail(
            error, LENSNET_ERROR_FORMAT,
            "'%s' holds weights but no training state: start from it instead of resuming",
            archive->path);
    if (numerics && atoi(numerics) != LENSNET_NUMERICS)
        return lnp_fail(
            error, LENSNET_ERROR_UNSUPPORTED,
            "'%s' is a training state of numerics %.20s, this build computes numerics %d: a "
            "resumed run would not be the same; start from its weights instead",
            archive->path, numerics, LENSNET_NUMERICS);
    *steps = strtoull(text, &end, 10);
    return *end || end == text ? lnp_bad_metadata(LNP_KEY_STEP, text, error) : LENSNET_OK;
}

lensnet_result lensnet_state_load(lensnet_model *model, lensnet_adamw *adamw, const char *path,
                                  lensnet_error *error)
{
    lensnet_archive *archive;
    lensnet_parameters *p;
    lensnet_result result;
    uint64_t steps = 0;
    float *buffer;
    size_t bytes, part;
    if (!model || !adamw || !path || adamw->parameters != model->parameters)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "state load: NULL, or an optimiser of another model");
    p = model->parameters;
    if (adamw->swapped) return lnp_average_in_place(error);
    bytes = lnp_state_parts(adamw) * p->size * sizeof(float);
    result = lensnet_archive_open(&archive, path, &model->host, error);
    if (result) return result;
    buffer = (float *)lnp_allocate(&model->host, bytes);
    if (!buffer)
        result = lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory while loading a state");
    if (!result) result = lnp_state_steps(&steps, archive, error);
    if (!result) result = lnp_state_read(buffer, adamw, archive, error);
    if (!result) {
        for (part = 0; part < lnp_state_parts(adamw); part++)
            memcpy(lnp_state_part(adamw, part), buffer + part * p->size, p->size * sizeof(float));
        adamw->steps = steps;
        lensnet_parameters_changed(p);
    }
    lnp_release(&model->host, buffer, bytes);
    lensnet_archive_close(archive);
    return result;
}
/* =================================================================================================
 * >>classify-impl  A classifier is a frozen model; a session is a graph over it and its buffers.
 * ============================================================================================== */

/* --- what a file says of its network ------------------------------------------------------------- */

#define LNP_LEVELS      99 /* conformal sets are stored for coverages of 1 ... 99 percent */
#define LNP_SEEN        1  /* the stage whose mean tells foreign images, from 0 */
#define LNP_SET_CLASSES 64 /* lensnet_prediction.set has a bit for each */

/* Tensors beside the weights, written by examples/calibrate.h; V is the number of views:
 *   lensnet.calibration.V.temperature  () or (2)     the temperature, or that and the power: lensnet_reliability
 *   lensnet.calibration.V.sets         (K, 99)       class k is in the set of coverage j percent where its
 *                                                    probability is at least sets[k][j - 1]
 *   lensnet.foreign.2.mean             (C)           of the mean over the second stage's map, known images
 *   lensnet.foreign.2.whitening        (C (C+1) / 2) the columns of a lower triangle L, from the diagonal on:
 *                                                    |L (x - mean)| / sqrt(C) is the distance of features x
 *   lensnet.foreign.2.threshold        ()            the distance beyond which an image is unknown
 * The second stage still sees what an image is made of; the last has learned to overlook whatever does not
 * tell the classes apart, and takes a round galaxy for a lens. Older files, the shipped atto among them, have the last stage's:
 * lensnet.foreign.mean and so on. */
typedef struct lnp_belief {
    double temperature, power; /* 1: nothing is known */
    size_t stage;              /* 0 ... 3: whose mean tells foreign images */
    float threshold;
    float *sets, *mean, *whitening; /* inside `block`; NULL where the file has none */
    float *block;
    size_t bytes;
} lnp_belief;

/* The tensor of that name with `count` values, if the file has it; *present tells. */
static lensnet_result lnp_belief_read(float *values, int *present, const lensnet_archive *archive,
                                      const char *name, size_t count, lensnet_error *error)
{
    const lensnet_archive_entry *entry = lensnet_archive_find(archive, name);
    lensnet_result result;
    size_t i;
    *present = entry != NULL;
    if (!entry) return LENSNET_OK;
    if (entry->count != count)
        return lnp_fail(error, LENSNET_ERROR_FORMAT, "%s: expected %zu values, found %zu", name,
                        count, entry->count);
    result = lensnet_archive_read_float(values, archive, entry, error);
    for (i = 0; !result && i < count; i++)
        if (!lnp_is_finite((double)values[i]))
            result = lnp_fail(error, LENSNET_ERROR_FORMAT, "%s: value %zu is not finite", name, i);
    return result;
}

/* Temperature and sets: both or none. */
static lensnet_result lnp_belief_read_probabilities(lnp_belief *b, const lensnet_archive *archive,
                                                    int views, size_t classes, lensnet_error *error)
{
    char name[64];
    float curve[2] = {1.0f, 1.0f}; /* temperature and power */
    const lensnet_archive_entry *entry;
    int known, sets = 0;
    lensnet_result result;
    snprintf(name, sizeof name, "lensnet.calibration.%d.temperature", views);
    entry = lensnet_archive_find(archive, name);
    result =
        lnp_belief_read(curve, &known, archive, name, entry && entry->count == 2 ? 2 : 1, error);
    if (!result && !(curve[0] >= 0.001f && curve[0] <= 1000.0f))
        result = lnp_fail(error, LENSNET_ERROR_FORMAT, "%s: %g is outside 0.001 ... 1000", name,
                          (double)curve[0]);
    if (!result && !(curve[1] >= 0.1f && curve[1] <= 10.0f))
        result = lnp_fail(error, LENSNET_ERROR_FORMAT, "%s: a power of %g is outside 0.1 ... 10",
                          name, (double)curve[1]);
    if (result || !known) return result;
    snprintf(name, sizeof name, "lensnet.calibration.%d.sets", views);
    result = lnp_belief_read(b->sets, &sets, archive, name, classes * LNP_LEVELS, error);
    b->temperature = (double)curve[0];
    b->power = (double)curve[1];
    if (!sets) b->sets = NULL;
    return result;
}

static lensnet_result lnp_belief_read_foreign(lnp_belief *b, const lensnet_archive *archive,
                                              size_t features, lensnet_error *error)
{
    static const char *const names[2][3] = {
        {"lensnet.foreign.2.mean", "lensnet.foreign.2.whitening", "lensnet.foreign.2.threshold"},
        {"lensnet.foreign.mean", "lensnet.foreign.whitening", "lensnet.foreign.threshold"}};
    const char *const *name = names[b->stage == 3];
    int mean, whitening = 0, threshold = 0;
    lensnet_result result = lnp_belief_read(b->mean, &mean, archive, name[0], features, error);
    if (!result)
        result = lnp_belief_read(b->whitening, &whitening, archive, name[1],
                                 features * (features + 1) / 2, error);
    if (!result) result = lnp_belief_read(&b->threshold, &threshold, archive, name[2], 1, error);
    if (!result && threshold && !(b->threshold > 0.0f))
        result = lnp_fail(error, LENSNET_ERROR_FORMAT, "%s: %g; expected a distance above 0",
                          name[2], (double)b->threshold);
    if (!mean || !whitening || !threshold) b->mean = b->whitening = NULL;
    return result;
}

static void lnp_belief_release(lnp_belief *b, const lensnet_host *host)
{
    lnp_release(host, b->block, b->bytes);
    memset(b, 0, sizeof *b);
    b->temperature = b->power = 1.0;
    b->stage = LNP_SEEN;
}

/* Of the mean over a stage's map, or of the features where there is no such stage. */
static size_t lnp_pooled_channels(const lensnet_model *model, size_t stage)
{
    return model->stages[stage] ? model->stages[stage] : model->features;
}

/* Reads what there is; a file that says nothing costs nothing. */
static lensnet_result lnp_belief_open(lnp_belief *b, const lensnet_archive *archive, int views,
                                      const lensnet_model *model, const lensnet_host *host,
                                      lensnet_error *error)
{
    const size_t classes = model->desc.classes, sets = classes * LNP_LEVELS;
    const int old = lensnet_archive_find(archive, "lensnet.foreign.mean") &&
                    !lensnet_archive_find(archive, "lensnet.foreign.2.mean");
    const size_t features = lnp_pooled_channels(model, old ? 3 : LNP_SEEN);
    lensnet_result result;
    b->stage = old ? 3 : LNP_SEEN;
    if (!lensnet_archive_find(archive, "lensnet.calibration.1.temperature") &&
        !lensnet_archive_find(archive, "lensnet.calibration.8.temperature") &&
        !lensnet_archive_find(archive, "lensnet.foreign.2.mean") && !old)
        return LENSNET_OK;
    b->bytes = (sets + features + features * (features + 1) / 2) * sizeof(float);
    b->block = (float *)lnp_allocate(host, b->bytes);
    if (!b->block)
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for the calibration");
    b->sets = b->block;
    b->mean = b->sets + sets;
    b->whitening = b->mean + features;
    b->temperature = 0.0;
    result = lnp_belief_read_probabilities(b, archive, views, classes, error);
    if (!result) result = lnp_belief_read_foreign(b, archive, features, error);
    if (b->temperature == 0.0) {
        b->temperature = 1.0;
        b->sets = NULL;
    }
    if (result) lnp_belief_release(b, host);
    return result;
}

/* Of a class with probability p beside the greatest, of which `top` is the logarithm. */
static double lnp_belief_weight(double p, double top, const lnp_belief *b)
{
    const double below = p > 0.0 ? (lensnet_log(p) - top) / b->temperature : 0.0;
    if (!(p > 0.0)) return 0.0;
    if (b->power == 1.0 || !(below < 0.0)) return lensnet_exp(below);
    return lensnet_exp(-lensnet_exp(b->power * lensnet_log(-below)));
}

/* Probabilities of one image, to sum 1: softmax(logits / T) where the power is 1, and the same map on a mean over
 * views. */
static void lnp_belief_temper(float *p, size_t classes, const lnp_belief *b)
{
    double top = 0.0, sum = 0.0;
    size_t k;
    if (b->temperature == 1.0 && b->power == 1.0) return;
    for (k = 0; k < classes; k++) top = (double)p[k] > top ? (double)p[k] : top;
    top = lensnet_log(top);
    for (k = 0; k < classes; k++) sum += lnp_belief_weight((double)p[k], top, b);
    for (k = 0; k < classes; k++) p[k] = (float)(lnp_belief_weight((double)p[k], top, b) / sum);
}

/* The distance of pooled features over the threshold; `y` is room for as many floats. */
static float lnp_belief_foreign(const lnp_belief *b, const float *x, float *y, size_t features)
{
    const float *column = b->whitening;
    double sum = 0.0;
    size_t c, r;
    memset(y, 0, features * sizeof *y);
    for (c = 0; c < features; column += features - c, c++) {
        const float d = x[c] - b->mean[c];
        for (r = c; r < features; r++) y[r] += column[r - c] * d;
    }
    for (r = 0; r < features; r++) sum += (double)y[r] * (double)y[r];
    return (float)(sqrt(sum / (double)features) / (double)b->threshold);
}

static void lnp_belief_set(lensnet_prediction *prediction, const lnp_belief *b, const float *p,
                           size_t classes, double coverage)
{
    const size_t level = (size_t)(coverage * 100.0 + (1.0 - 1e-9)) - 1;
    size_t k;
    prediction->set = 0;
    prediction->set_size = b->sets && classes <= LNP_SET_CLASSES ? 0 : -1;
    for (k = 0; prediction->set_size >= 0 && k < classes; k++)
        if (p[k] >= b->sets[k * LNP_LEVELS + level]) {
            prediction->set |= (uint64_t)1 << k;
            prediction->set_size++;
        }
}

/* --- classifiers --------------------------------------------------------------------------------- */

struct lensnet_classifier {
    lensnet_host host;
    lensnet_classifier_options options;
    lensnet_model *model; /* its parameters are frozen */
    lnp_belief belief;
};

struct lensnet_session {
    lensnet_host host;
    const lensnet_classifier *classifier;
    lensnet_preprocess preprocess; /* as the classifier's; grey where colour says nothing more */
    lensnet_graph *graph;
    lensnet_tensor features,
        pooled; /* of the last stage; the mean by which foreign images are told */
    size_t batch, image_floats, classes, feature_count, pooled_count;
    size_t buffer_floats;
    float *buffer; /* images, logits, sums of probabilities, features */
    float *images, *logits, *sums;
    float
        *rows; /* pooled features of a batch and one row more; only where foreign images are told */
    size_t height, width; /* what the two below were taken for */
    size_t scratch_bytes, turned_bytes;
    void *scratch;
    float *turned;
};

lensnet_classifier_options lensnet_classifier_defaults(void)
{
    lensnet_classifier_options o;
    memset(&o, 0, sizeof o);
    o.views = 1;
    o.calibrated = 1;
    o.bands = 1;
    o.coverage = 0.9;
    o.precision = LENSNET_PRECISION_FP32;
    o.memory_limit = sizeof(size_t) > 4 ? (size_t)1 << 16 << 16 : (size_t)1 << 30;
    return o;
}

lensnet_result lensnet_classifier_load_archive(lensnet_classifier **classifier,
                                               const lensnet_archive *archive,
                                               const lensnet_classifier_options *options,
                                               lensnet_error *error)
{
    lensnet_classifier_options defaults = lensnet_classifier_defaults();
    lensnet_host host;
    lensnet_classifier *c;
    lensnet_result result;
    if (!classifier || !archive) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "classifier: NULL");
    *classifier = NULL;
    if (!options) options = &defaults;
    if (options->views != 1 && options->views != 8)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "classifier: %d views; expected 1 or 8",
                        options->views);
    if (!(options->coverage >= 0.01 && options->coverage <= 0.99))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "classifier: a coverage of %g; expected 0.01 ... 0.99", options->coverage);
    if (!lensnet_precision_text(options->precision))
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "classifier: precision %d is none",
                        (int)options->precision);
    host = lnp_host_copy(options->host);
    c = (lensnet_classifier *)lnp_allocate(&host, sizeof *c);
    if (!c) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for a classifier");
    c->host = host;
    c->options = *options;
    c->options.told = NULL;
    c->model = NULL;
    memset(&c->belief, 0, sizeof c->belief);
    c->belief.temperature = c->belief.power = 1.0;
    c->belief.stage = LNP_SEEN;
    result = lnp_model_freeze(&c->model, archive, options, &host, error);
    if (!result && c->options.views > c->model->desc.views) c->options.views = c->model->desc.views;
    if (!result && options->calibrated)
        result = lnp_belief_open(&c->belief, archive, c->options.views, c->model, &host, error);
    if (result)
        lensnet_classifier_destroy(c);
    else
        *classifier = c;
    return result;
}

lensnet_result lensnet_classifier_load(lensnet_classifier **classifier, const char *path,
                                       const lensnet_classifier_options *options,
                                       lensnet_error *error)
{
    lensnet_archive *archive;
    lensnet_result result;
    if (!classifier || !path) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "classifier: NULL");
    *classifier = NULL;
    result = lensnet_archive_open(&archive, path, options ? options->host : NULL, error);
    if (!result) result = lensnet_classifier_load_archive(classifier, archive, options, error);
    lensnet_archive_close(archive);
    return result;
}

lensnet_result lensnet_classifier_load_memory(lensnet_classifier **classifier, const void *bytes,
                                              size_t count,
                                              const lensnet_classifier_options *options,
                                              lensnet_error *error)
{
    lensnet_archive *archive;
    lensnet_result result;
    if (!classifier || !bytes) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "classifier: NULL");
    *classifier = NULL;
    result =
        lensnet_archive_open_memory(&archive, bytes, count, options ? options->host : NULL, error);
    if (!result) result = lensnet_classifier_load_archive(classifier, archive, options, error);
    lensnet_archive_close(archive);
    return result;
}

const char *lensnet_classifier_notes(const lensnet_classifier *c)
{
    return c ? c->model->notes : "";
}

void lensnet_classifier_destroy(lensnet_classifier *c)
{
    lensnet_host host;
    if (!c) return;
    host = c->host;
    lensnet_model_destroy(c->model);
    lnp_belief_release(&c->belief, &host);
    lnp_release(&host, c, sizeof *c);
}

size_t lensnet_classifier_classes(const lensnet_classifier *c)
{
    return c ? c->model->desc.classes : 0;
}

const char *lensnet_classifier_label(const lensnet_classifier *c, size_t index)
{
    return c && index < c->model->desc.classes ? c->model->desc.labels[index] : "";
}

size_t lensnet_classifier_features(const lensnet_classifier *c)
{
    return c ? c->model->features : 0;
}

size_t lensnet_classifier_pooled(const lensnet_classifier *c)
{
    return c ? lnp_pooled_channels(c->model, c->belief.stage) : 0;
}

const lensnet_preprocess *lensnet_classifier_preprocess(const lensnet_classifier *c)
{
    return c ? &c->model->desc.preprocess : NULL;
}

lensnet_reliability lensnet_classifier_reliability(const lensnet_classifier *c)
{
    lensnet_reliability reliability = {1.0, 1.0, 0, 0, 0.0};
    if (!c) return reliability;
    reliability.coverage = c->options.coverage;
    reliability.temperature = c->belief.temperature;
    reliability.power = c->belief.power;
    reliability.sets = c->belief.sets && c->model->desc.classes <= LNP_SET_CLASSES;
    reliability.foreign = c->belief.mean != NULL;
    return reliability;
}

/* --- sessions ---------------------------------------------------------------------------------- */

static lensnet_result lnp_session_graph(lensnet_session *s, lensnet_error *error)
{
    const lensnet_model *model = s->classifier->model;
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_network network;
    lensnet_result result;
    options.height = options.width = (size_t)s->preprocess.image_size;
    options.batch = s->batch;
    options.precision = s->classifier->options.precision;
    options.memory_limit = s->classifier->options.memory_limit;
    result = lensnet_graph_create(&s->graph, model->parameters, &options, error);
    if (result) return result;
    network = lnp_record_network(s->graph, &model->desc, &s->pooled, s->classifier->belief.stage);
    s->features = network.features;
    lensnet_output(s->graph, network.logits);
    lensnet_keep(s->graph, s->features);
    lensnet_keep(s->graph, s->pooled);
    if (s->classifier->belief.stage < 3 && lnp_tensor_valid(s->graph, s->pooled) &&
        s->pooled.index != s->features.index)
        s->graph->tensors[s->pooled.index].kept = LNP_KEPT_ASIDE; /* nothing else needs it */
    result = lensnet_graph_plan(s->graph, NULL, error);
    return result ? result : lensnet_graph_allocate(s->graph, error);
}

static lensnet_result lnp_session_buffers(lensnet_session *s, lensnet_error *error)
{
    const size_t side = (size_t)s->preprocess.image_size;
    const size_t limit = s->classifier->options.memory_limit;
    const double bytes = (double)s->batch * (double)side * (double)side *
                         (double)s->preprocess.channels * sizeof(float);
    if (bytes > (double)(limit ? limit : SIZE_MAX / 2))
        return lnp_fail(error, LENSNET_ERROR_MEMORY,
                        "session: %zu images of %zu x %zu take %.1f MB, and memory_limit of the "
                        "classifier's options is %.1f MB",
                        s->batch, side, side, bytes / 1e6, (double)limit / 1e6);
    s->image_floats = side * side * (size_t)s->preprocess.channels;
    s->buffer_floats = s->batch * (s->image_floats + 2 * s->classes);
    if (s->classifier->belief.mean) s->buffer_floats += (s->batch + 1) * s->pooled_count;
    s->buffer = (float *)lnp_allocate(&s->host, s->buffer_floats * sizeof(float));
    if (!s->buffer) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for a session");
    s->images = s->buffer;
    s->logits = s->images + s->batch * s->image_floats;
    s->sums = s->logits + s->batch * s->classes;
    s->rows = s->classifier->belief.mean ? s->sums + s->batch * s->classes : NULL;
    return LENSNET_OK;
}

static int lnp_is_grey_enough(const lensnet_preprocess *p)
{
    return p->bands == 1 && !lnp_is_imagenet(p->normalisation) &&
           p->normalisation != LENSNET_NORMALISATION_DATASET;
}

lensnet_result lensnet_session_create(lensnet_session **session,
                                      const lensnet_classifier *classifier, size_t batch,
                                      lensnet_error *error)
{
    lensnet_result result;
    lensnet_session *s;
    if (!session) return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "session: NULL result pointer");
    *session = NULL;
    if (!classifier || batch < 1 || batch > 65536)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT,
                        "session: NULL classifier, or a batch outside 1 ... 65536");
    s = (lensnet_session *)lnp_allocate(&classifier->host, sizeof *s);
    if (!s) return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for a session");
    memset(s, 0, sizeof *s);
    s->host = classifier->host;
    s->classifier = classifier;
    s->batch = batch;
    s->classes = classifier->model->desc.classes;
    s->feature_count = classifier->model->features;
    s->pooled_count = lensnet_classifier_pooled(classifier);
    s->preprocess = classifier->model->desc.preprocess;
    if (lnp_is_grey_enough(&s->preprocess)) s->preprocess.channels = 1;
    result = lnp_session_graph(s, error);
    if (!result) result = lnp_session_buffers(s, error);
    if (result)
        lensnet_session_destroy(s);
    else
        *session = s;
    return result;
}

static void lnp_session_forget_size(lensnet_session *s)
{
    lnp_release(&s->host, s->scratch, s->scratch_bytes);
    lnp_release(&s->host, s->turned, s->turned_bytes);
    s->scratch = NULL;
    s->turned = NULL;
    s->scratch_bytes = s->turned_bytes = s->height = s->width = 0;
}

void lensnet_session_destroy(lensnet_session *s)
{
    lensnet_host host;
    if (!s) return;
    host = s->host;
    lnp_session_forget_size(s);
    lensnet_graph_destroy(s->graph);
    lnp_release(&host, s->buffer, s->buffer_floats * sizeof(float));
    lnp_release(&host, s, sizeof *s);
}

size_t lensnet_session_bytes(const lensnet_session *s)
{
    if (!s) return 0;
    return sizeof *s + lnp_graph_bytes(s->graph) + s->buffer_floats * sizeof(float) +
           s->scratch_bytes + s->turned_bytes;
}

static lensnet_result lnp_session_size(lensnet_session *s, size_t height, size_t width,
                                       lensnet_error *error)
{
    size_t upright, turned;
    if (height == s->height && width == s->width) return LENSNET_OK;
    upright = lensnet_preprocess_scratch_bytes(&s->preprocess, height, width);
    turned = lensnet_preprocess_scratch_bytes(&s->preprocess, width, height);
    if (!upright || !turned)
        return lnp_fail(error, LENSNET_ERROR_SHAPE,
                        "image of %zu x %zu pixels; expected 1 ... %d a side", height, width,
                        LENSNET_IMAGE_LIMIT);
    lnp_session_forget_size(s);
    s->scratch_bytes = lnp_max(upright, turned);
    s->turned_bytes = (size_t)s->preprocess.bands * height * width * sizeof(float);
    s->scratch = lnp_allocate(&s->host, s->scratch_bytes);
    s->turned = (float *)lnp_allocate(&s->host, s->turned_bytes);
    if (!s->scratch || !s->turned) {
        lnp_session_forget_size(s);
        return lnp_fail(error, LENSNET_ERROR_MEMORY, "out of memory for an image of %zu x %zu",
                        height, width);
    }
    s->height = height;
    s->width = width;
    return LENSNET_OK;
}

/* Of fewer than 8 views: the half turn, and the mirrors. */
static int lnp_turn_of_view(const lensnet_session *s, int index)
{
    return s->classifier->options.views == 8 ? index : 2 * index;
}

/* Image `i` of the batch as view 0 ... 7: bit 2 mirrors, the lower two are quarter turns. */
static lensnet_result lnp_session_prepare(lensnet_session *s, size_t i, const float *pixels,
                                          int view, lensnet_error *error)
{
    size_t h = s->height, w = s->width;
    float *to = s->images + i * s->image_floats;
    if (view) {
        int band;
        for (band = 0; band < s->preprocess.bands; band++) {
            size_t at = (size_t)band * h * w;
            lensnet_result result = lensnet_turn(s->turned + at, pixels + at, s->height, s->width,
                                                 view >> 2, 0, view & 3, error);
            if (result) return result;
        }
        pixels = s->turned;
        if (view & 1) {
            h = s->width;
            w = s->height;
        }
    }
    return lensnet_preprocess_image(to, pixels, h, w, &s->preprocess, s->scratch, error);
}

/* Where a batch's answers go; each may be NULL. */
typedef struct lnp_answers {
    lensnet_prediction *predictions;
    float *probabilities, *features, *pooled;
} lnp_answers;

/* One view of `count` <= batch images: softmax rows are added to s->sums. `collected` receives rows of
 * the tensor `collect`. */
static lensnet_result lnp_session_view(lensnet_session *s, const float *pixels, size_t first,
                                       size_t count, int view, float *collected,
                                       lensnet_tensor collect, lensnet_error *error)
{
    lensnet_batch batch = lensnet_batch_defaults();
    lensnet_outputs outputs;
    lensnet_result result;
    size_t i;
    for (i = 0; i < count; i++) {
        const float *image =
            pixels + (first + i) * (size_t)s->preprocess.bands * s->height * s->width;
        lensnet_error reason;
        result = lnp_session_prepare(s, i, image, view, &reason);
        if (result) return lnp_fail(error, result, "image %zu: %s", first + i + 1, reason.text);
    }
    memset(&outputs, 0, sizeof outputs);
    batch.images = s->images;
    batch.channels = (size_t)s->preprocess.channels;
    batch.count = count;
    outputs.logits = s->logits;
    result = lnp_run_collect(s->graph, &batch, &outputs, collected, collect, error);
    if (result) return result;
    lnp_softmax(s->logits, s->logits, count, s->classes);
    for (i = 0; i < count * s->classes; i++) s->sums[i] += s->logits[i];
    return LENSNET_OK;
}

static void lnp_predict(lensnet_prediction *prediction, const lensnet_classifier *c,
                        const float *probabilities, const float *pooled, float *row)
{
    const size_t classes = c->model->desc.classes;
    size_t k, best = 0;
    for (k = 1; k < classes; k++)
        if (probabilities[k] > probabilities[best]) best = k;
    prediction->index = (int)best;
    prediction->probability = probabilities[best];
    prediction->foreign =
        c->belief.mean ? lnp_belief_foreign(&c->belief, pooled, row, lensnet_classifier_pooled(c))
                       : 0.0f;
    prediction->unknown = !(prediction->foreign <= 1.0f);
    prediction->label = prediction->unknown ? "unknown" : c->model->desc.labels[best];
    lnp_belief_set(prediction, &c->belief, probabilities, classes, c->options.coverage);
}

/* The sums of the views become probabilities. */
static lensnet_result lnp_session_average(lensnet_session *s, size_t first, size_t count,
                                          lensnet_error *error)
{
    const float views = (float)s->classifier->options.views;
    size_t i;
    for (i = 0; i < count * s->classes; i++)
        if (!(s->sums[i] >= 0.0f))
            return lnp_fail(
                error, LENSNET_ERROR_NUMBER,
                "image %zu: the network's answer is not a number; do its weights hold NaN or "
                "values that overflow?",
                first + i / s->classes + 1);
    for (i = 0; i < count * s->classes; i++) s->sums[i] /= views;
    for (i = 0; i < count; i++)
        lnp_belief_temper(s->sums + i * s->classes, s->classes, &s->classifier->belief);
    return LENSNET_OK;
}

static lensnet_result lnp_session_batch(lensnet_session *s, const lnp_answers *to,
                                        const float *pixels, size_t first, size_t count,
                                        lensnet_error *error)
{
    const int views = s->classifier->options.views;
    float *pooled = to->pooled ? to->pooled : to->predictions ? s->rows : NULL;
    float *collected = to->features ? to->features : pooled;
    const lensnet_tensor collect = to->features ? s->features : s->pooled;
    lensnet_result result = LENSNET_OK;
    int view;
    size_t i;
    memset(s->sums, 0, count * s->classes * sizeof(float));
    for (view = 0; !result && view < views; view++)
        result = lnp_session_view(s, pixels, first, count, lnp_turn_of_view(s, view),
                                  view ? NULL : collected, collect, error);
    if (!result) result = lnp_session_average(s, first, count, error);
    if (result) return result;
    if (to->probabilities) memcpy(to->probabilities, s->sums, count * s->classes * sizeof(float));
    for (i = 0; to->predictions && i < count; i++)
        lnp_predict(to->predictions + i, s->classifier, s->sums + i * s->classes,
                    pooled ? pooled + i * s->pooled_count : NULL,
                    s->rows ? s->rows + s->batch * s->pooled_count : NULL);
    return LENSNET_OK;
}

/* `to` for the images from number `first` on. */
static lnp_answers lnp_answers_from(const lnp_answers *to, size_t first, const lensnet_session *s)
{
    lnp_answers at = *to;
    if (at.predictions) at.predictions += first;
    if (at.probabilities) at.probabilities += first * s->classes;
    if (at.features) at.features += first * s->feature_count;
    if (at.pooled) at.pooled += first * s->pooled_count;
    return at;
}

static lensnet_result lnp_session_run(lensnet_session *s, const lnp_answers *to,
                                      const float *pixels, size_t count, size_t height,
                                      size_t width, lensnet_error *error)
{
    uint64_t mode;
    size_t first;
    lensnet_result result;
    if (!s || !pixels)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "session classify: NULL session or pixels");
    result = lnp_session_size(s, height, width, error);
    mode = lnp_mode_enter();
    for (first = 0; !result && first < count; first += s->batch) {
        const lnp_answers at = lnp_answers_from(to, first, s);
        result = lnp_session_batch(s, &at, pixels, first, lnp_min(s->batch, count - first), error);
    }
    lnp_mode_leave(mode);
    return result;
}

lensnet_result lensnet_session_classify(lensnet_session *s, float *probabilities, float *features,
                                        const float *pixels, size_t count, size_t height,
                                        size_t width, lensnet_error *error)
{
    lnp_answers to;
    memset(&to, 0, sizeof to);
    to.probabilities = probabilities;
    to.features = features;
    return lnp_session_run(s, &to, pixels, count, height, width, error);
}

lensnet_result lensnet_session_predict(lensnet_session *s, lensnet_prediction *predictions,
                                       float *probabilities, float *pooled, const float *pixels,
                                       size_t count, size_t height, size_t width,
                                       lensnet_error *error)
{
    lnp_answers to;
    memset(&to, 0, sizeof to);
    to.predictions = predictions;
    to.probabilities = probabilities;
    to.pooled = pooled;
    return lnp_session_run(s, &to, pixels, count, height, width, error);
}

lensnet_result lensnet_classify(const lensnet_classifier *classifier, const float *pixels,
                                size_t height, size_t width, lensnet_prediction *prediction,
                                lensnet_error *error)
{
    lensnet_session *s;
    lensnet_result result;
    if (!classifier || !prediction)
        return lnp_fail(error, LENSNET_ERROR_ARGUMENT, "classify: NULL classifier or prediction");
    result = lensnet_session_create(&s, classifier, 1, error);
    if (result) return result;
    result = lensnet_session_predict(s, prediction, NULL, NULL, pixels, 1, height, width, error);
    lensnet_session_destroy(s);
    return result;
}
#ifdef __cplusplus
}
#endif

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wignored-pragmas"
#pragma float_control(pop)
#pragma clang diagnostic pop
#elif defined(__GNUC__)
#pragma GCC diagnostic pop
#pragma GCC pop_options
#pragma GCC diagnostic ignored                                                                     \
    "-Wpsabi" /* gcc reports it where the file ends; no vector leaves here */
#endif

#endif /* LENSNET_IMPLEMENTATION */

/* -------------------------------------------------------------------------------------------------
 * >>history  Versions, and what changed the bits: then LENSNET_NUMERICS grows, results differ in their last
 * digits and training states of the version before are refused.
 *
 * 0.3.0        2026-11-25: several losses in one graph with targets by name; extra heads on a model; operators and
 *              losses from outside the header (lensnet_operator); sigmoid, SiLU, multiply, concat,
 *              channel scale, group norm, batch norm, softmax, attention, tokens, dropout, average pool;
 *              depthwise 3 x 3 and 5 x 5, stride 2; bfloat16 products; images of several bands, crops; temperature,
 *              prediction sets and "unknown" in a classifier; learning rates of single tensors; models and
 *              classifiers of other networks (lensnet_architecture). Files carry checksums. float32 keeps
 *              its bits.
 * 0.2.0        2026-11-24, LENSNET_NUMERICS 2: the gradients of biases, norms and GRN's shift are sums of
 *              chunks of a sample added in order, no longer one chain down all rows; that of a depthwise
 *              filter ends with a band of 14 rows. Forward results are as before. Less memory in
 *              training.
 * 0.1.0        2026-11-22, LENSNET_NUMERICS 1: the first.
 * ---------------------------------------------------------------------------------------------- */

/* -------------------------------------------------------------------------------------------------
 * LICENCE (MIT)
 * Copyright (c) 2026 the lensnet authors
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
 * associated documentation files (the "Software"), to deal in the Software without restriction,
 * including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense,
 * and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so,
 * subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all copies or substantial
 * portions of the Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
 * LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN
 * NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY,
 * WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
 * SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
 * ---------------------------------------------------------------------------------------------- */
