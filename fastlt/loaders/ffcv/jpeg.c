/* Decodes a window of a JPEG with libjpeg-turbo at its exact settings, whose pixels are Pillow's to the bit.

   A JPEG is one stream, so all before the window has to be read, and all after it is, too: much damage shows only where
   the stream should end. But nothing outside of the window is transformed to pixels. */

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

enum { MARGIN = 2 }; /* columns: chroma is interpolated from its neighbors, which libjpeg cuts off at a window's sides */

typedef struct {
    struct jpeg_error_mgr manager;
    jmp_buf failed;
} Errors;

static void fail(j_common_ptr decoder) { longjmp(((Errors *)decoder->err)->failed, 1); }

static void fail_if_warning(j_common_ptr decoder, int level) {
    if (level < 0) fail(decoder); /* libjpeg would go on, with pixels that it made up */
}

/* Args:
       content, num_bytes: the file.
       height, width: of the whole image as it is stored, in pixels.
       shrink: 1, or 2, 4 or 8: each block of 8 x 8 becomes so much smaller in the DCT domain, before it is pixels.
       top, left, rows, columns: of the window, in pixels of the image shrunk so.
       pixels: room for the whole image, uint8 [height, width, 3]; RGB rows of the window are written to its start.
       span: the first column of these rows and how many they have: those of the window, and some beside them.

   Returns 0, or -1 where the file is damaged or not of that size. */
int fastlt_decode_jpeg(
    const unsigned char *content, unsigned long num_bytes, int height, int width, int shrink, int top, int left,
    int rows, int columns, unsigned char *pixels, int *span
) {
    struct jpeg_decompress_struct decoder;
    Errors errors;
    decoder.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = fail;
    errors.manager.emit_message = fail_if_warning;
    decoder.mem = NULL; /* so that it may be destroyed before it is created */
    if (setjmp(errors.failed)) {
        jpeg_destroy_decompress(&decoder);
        return -1;
    }
    jpeg_create_decompress(&decoder);
    jpeg_mem_src(&decoder, content, num_bytes);
    jpeg_read_header(&decoder, TRUE);
    if (decoder.image_height != (JDIMENSION)height || decoder.image_width != (JDIMENSION)width)
        fail((j_common_ptr)&decoder);
    decoder.out_color_space = JCS_RGB;
    decoder.scale_num = 1;
    decoder.scale_denom = shrink;
    jpeg_start_decompress(&decoder);

    JDIMENSION first = left > MARGIN ? left - MARGIN : 0;
    JDIMENSION end = left + columns + MARGIN, bottom = top + rows;
    if (end > decoder.output_width) end = decoder.output_width;
    JDIMENSION count = end - first;
    if (count < decoder.output_width) jpeg_crop_scanline(&decoder, &first, &count); /* left, to a block's border */
    span[0] = first;
    span[1] = count;
    if (top) jpeg_skip_scanlines(&decoder, top);
    while (decoder.output_scanline < bottom) {
        JSAMPROW row = pixels + (size_t)(decoder.output_scanline - top) * 3 * count;
        jpeg_read_scanlines(&decoder, &row, 1);
    }
    if (bottom < decoder.output_height) {
        JSAMPROW last = pixels + (size_t)rows * 3 * count;
        /* Skipping to the end would not read what is there. */
        jpeg_skip_scanlines(&decoder, decoder.output_height - 1 - bottom);
        jpeg_read_scanlines(&decoder, &last, 1);
    }
    jpeg_finish_decompress(&decoder);
    jpeg_destroy_decompress(&decoder);
    return 0;
}
