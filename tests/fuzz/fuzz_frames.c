/* WebSocket frames through ws.c. The first byte says how the rest is cut into pieces; however it is cut,
 * what comes out must be the same, so each input is fed twice and compared. */
#include <stdlib.h>
#include <string.h>

#include "chatd/buf.h"
#include "net/ws.h"

enum { MESSAGE_MAX = 1024 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_message(void *arg, bool text, const char *data, size_t length)
{
    buf_add_string(arg, text ? "T" : "B");
    buf_add_u64(arg, length);
    buf_add(arg, data, length);
}

static void on_output(void *arg, const char *data, size_t length)
{
    buf_add_string(arg, "O");
    buf_add(arg, data, length);
}

static enum ws_result feed(struct ws_pool *pool, const uint8_t *data, size_t size, size_t step,
                           struct buf *out)
{
    static const struct ws_sink sink = {on_message, on_output};
    struct ws *ws = NULL;
    enum ws_result result = WS_MORE;
    for (size_t at = 0; at < size && result == WS_MORE; at += step) {
        size_t part = size - at < step ? size - at : step;
        result = ws_feed(pool, &ws, &sink, out, (const char *)data + at, part, MESSAGE_MAX);
    }
    if (result != WS_MORE && ws != NULL)
        abort();
    ws_free(ws);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct ws_pool pool = {0};
    struct buf whole = BUF_INIT, cut = BUF_INIT;
    enum ws_result first = feed(&pool, data + 1, size - 1, SIZE_MAX / 2, &whole);
    enum ws_result second = feed(&pool, data + 1, size - 1, 1 + data[0] % 16, &cut);
    if (first != second || whole.length != cut.length ||
        (whole.length > 0 && memcmp(whole.data, cut.data, whole.length) != 0))
        abort();
    buf_deinit(&whole);
    buf_deinit(&cut);
    ws_pool_deinit(&pool);
    return 0;
}
