/* The limit of decoding on a CPU: libjpeg-turbo alone, full scale, to RGB, on so many threads. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <turbojpeg.h>

typedef struct {
    const unsigned char *bytes;
    const long *starts; /* n + 1 of them */
    long n;
    atomic_long next, failed;
} Work;

static void *decode_some(void *given) {
    Work *work = given;
    tjhandle decoder = tjInitDecompress();
    unsigned char *pixels = NULL;
    size_t room = 0;
    long i;
    while ((i = atomic_fetch_add(&work->next, 1)) < work->n) {
        unsigned char *jpeg = (unsigned char *)work->bytes + work->starts[i];
        unsigned long size = work->starts[i + 1] - work->starts[i];
        int width, height, subsampling, colorspace;
        if (tjDecompressHeader3(decoder, jpeg, size, &width, &height, &subsampling, &colorspace)) {
            work->failed++;
            continue;
        }
        size_t needed = 3UL * width * height;
        if (needed > room) {
            free(pixels);
            pixels = malloc(room = needed);
        }
        /* The flag that FFCV decodes with. */
        if (!pixels || tjDecompress2(decoder, jpeg, size, pixels, width, 0, height, TJPF_RGB, TJFLAG_FASTDCT))
            work->failed++;
    }
    free(pixels);
    tjDestroy(decoder);
    return NULL;
}

/* Decodes image i = 0..n-1, bytes[starts[i]..starts[i + 1]); returns how many failed. */
long decode_all(const unsigned char *bytes, const long *starts, long n, int threads) {
    Work work = {bytes, starts, n, 0, 0};
    pthread_t *others = malloc((threads - 1) * sizeof(pthread_t) + 1);
    for (int t = 0; t < threads - 1; t++) pthread_create(&others[t], NULL, decode_some, &work);
    decode_some(&work);
    for (int t = 0; t < threads - 1; t++) pthread_join(others[t], NULL);
    free(others);
    return work.failed;
}
