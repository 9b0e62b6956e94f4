/* net.c - one worker's connections as a whole: the flush at the end of each loop turn, the sweep, the end. */
#include "chatd/net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "chatd/conn.h"
#include "chatd/metrics.h"
#include "gzip.h"
#include "internal.h"

const char *close_reason_word(enum close_reason reason)
{
    static const char *const words[CLOSE_COUNT] = {
#define CLOSE(name, code, word) [CLOSE_##name] = word,
#include "chatd/close_reasons.def"
#undef CLOSE
    };
    return words[reason];
}

static void report_deliveries(const struct outq_tally *tally)
{
    metrics_add(deliveries_total, tally->deliveries);
    for (unsigned i = 0; i < METRICS_BUCKETS; i++) {
        if (tally->latencies[i] > 0)
            metrics_add(delivery_latency_seconds.buckets[i], tally->latencies[i]);
    }
    metrics_add(delivery_latency_seconds.sum_us, tally->latency_us);
}

static void report(struct net *net)
{
    if (net->tally.writes > 0) {
        metrics_add(bytes_out_total, net->tally.bytes);
        metrics_add(writes_total, net->tally.writes);
        if (net->tally.deliveries > 0)
            report_deliveries(&net->tally);
        net->tally = (struct outq_tally){0};
    }
    metrics_set(send_queue_bytes, net->queued);
}

/* Connections marked while this runs come behind and are flushed, too. It ends: they are marked again only
 * for bytes that are there already, or for a close, once. */
static void flush_dirty(struct net *net)
{
    while (net->dirty != NULL) {
        struct conn *conn = net->dirty;
        net->dirty = conn->dirty_next;
        if (net->dirty == NULL)
            net->dirty_tail = &net->dirty;
        conn->flags &= (uint8_t)~FLAG_DIRTY;
        conn_flush(conn);
    }
}

static void flush(struct net *net)
{
    if (net->closed)
        return;
    /* A handler that hears of a close may gather more for others, which must not wait for the next event. */
    do {
        net->told = false;
        net->handler.on_flush(net->handler.arg);
        flush_dirty(net);
    } while (net->told && !net->closed);
    report(net);
}

static void on_check(uv_check_t *check)
{
    flush(check->data);
}

static void on_prepare(uv_prepare_t *prepare)
{
    flush(prepare->data);
}

/* A slice of the table from its end to its start: who takes the place of a connection that goes was visited
 * already, or will be visited again, which does no harm. */
static void on_sweep(uv_timer_t *timer)
{
    struct net *net = timer->data;
    listener_resume(net);
    uint32_t visits = net->count / NET_SWEEP_SLICES + 1;
    if (net->cursor == 0)
        net->cursor = net->count;
    while (visits-- > 0 && net->cursor > 0) {
        net->cursor--;
        if (net->cursor < net->count)
            conn_sweep(net->table[net->cursor]);
    }
}

int net_init(struct net **out, uv_loop_t *loop, const struct config *config,
             const struct net_handler *handler)
{
    struct net *net = calloc(1, sizeof(*net));
    int reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (net == NULL || reserve < 0) {
        int error = net == NULL ? -ENOMEM : -errno;
        if (reserve >= 0)
            close(reserve);
        free(net);
        return error;
    }
    net->loop = loop;
    net->config = config;
    net->handler = *handler;
    net->reserve = reserve;
    net->last_id = conn_id_first(0);
    net->listen_fd = -1;
    net->dirty_tail = &net->dirty;
    net->ping = frame_message(FRAME_PING, NULL, 0);
    net->buffer = malloc(NET_READ_BUFFER);
    if (net->buffer == NULL)
        abort();
    net->timer.data = net->check.data = net->prepare.data = net->listener.data = net;
    uv_timer_init(loop, &net->timer);
    uv_check_init(loop, &net->check);
    uv_prepare_init(loop, &net->prepare);
    uv_timer_start(&net->timer, on_sweep, NET_SWEEP_MS, NET_SWEEP_MS);
    uv_check_start(&net->check, on_check);
    uv_prepare_start(&net->prepare, on_prepare);
    *out = net;
    return 0;
}

int net_listen(struct net *net, int fd)
{
    if (net->listen_fd >= 0 || net->stopping)
        return -EBUSY;
    return listener_start(net, fd);
}

void net_name(struct net *net, int worker)
{
    net->last_id = conn_id_first(worker);
}

void net_hold(struct net *net)
{
    net->held = true;
}

void net_release(struct net *net)
{
    net->held = false;
    for (uint32_t i = net->count; i-- > 0 && !net->closed;) {
        struct conn *conn = net->table[i];
        if (conn->state == CONN_HANDLE && !(conn->flags & FLAG_ATTACHED))
            http_release(conn, true);
    }
}

void net_stop_listening(struct net *net)
{
    net->stopping = true;
    listener_stop(net);
    for (uint32_t i = net->count; i-- > 0;) {
        struct conn *conn = net->table[i];
        if (conn->state == CONN_READ && conn->flags & FLAG_SERVED)
            conn_close(conn, CLOSE_HTTP);
        else if (conn->state == CONN_READ)
            conn->since = net_now(net); /* its request may be on its way: see conn_sweep */
        else if (conn->state == CONN_ANSWER)
            conn->flags |= FLAG_LAST;
        else if (conn->state == CONN_HANDLE && !(conn->flags & FLAG_ATTACHED))
            http_release(conn, false);
    }
}

void net_each(struct net *net, void (*visit)(void *arg, struct conn *conn), void *arg)
{
    for (uint32_t i = net->count; i-- > 0;)
        if (net->table[i]->state == CONN_OPEN)
            visit(arg, net->table[i]);
}

uint32_t net_count(const struct net *net)
{
    return net->live;
}

void net_close(struct net *net)
{
    if (net->closed)
        return;
    net->closed = true; /* before any on_close, which may call this again */
    net->stopping = true;
    listener_stop(net);
    for (uint32_t i = net->count; i-- > 0;) {
        struct conn *conn = net->table[i];
        conn_close(conn, CLOSE_STOPPING);
        conn_flush(conn);
    }
    while (net->count > 0)
        conn_finish(net->table[net->count - 1], CLOSE_STOPPING);
    flush_dirty(net); /* only empties the list */
    report(net);
    uv_close((uv_handle_t *)&net->timer, NULL);
    uv_close((uv_handle_t *)&net->check, NULL);
    uv_close((uv_handle_t *)&net->prepare, NULL);
}

void net_free(struct net *net)
{
    if (net == NULL)
        return;
    ws_pool_deinit(&net->pool);
    frame_unref(net->ping);
    gzip_free(net->gzip);
    if (net->reserve >= 0)
        close(net->reserve);
    free(net->buffer);
    free(net->table);
    free(net);
}
