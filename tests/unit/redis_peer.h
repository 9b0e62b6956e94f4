/* redis_peer.h - a peer on the test's own loop that speaks RESP as it is told to: for the words of errors
 * that a real server says only in rare moments, and for answers that come byte by byte. */
#ifndef REDIS_PEER_H
#define REDIS_PEER_H

#include <string.h>

#include "redis_host.h"

enum { REDIS_PEER_RULES = 8 };

/* Answers to a command whose name (and first argument, if `argument` is not NULL) are these. */
struct redis_peer_rule {
    const char *command, *argument;
    const char *reply; /* in RESP; NULL: none at all */
    int times;         /* so often; 0: always */
};

struct redis_peer {
    uv_tcp_t listener;
    uv_loop_t *loop;
    int port;
    struct redis_peer_rule rules[REDIS_PEER_RULES];
    bool drip;        /* one byte each round of the loop */
    int connections;  /* accepted so far */
    struct redis_peer_link *links;
};

struct redis_peer_link {
    uv_tcp_t tcp;
    uv_prepare_t prepare;
    struct redis_peer *peer;
    struct redis_peer_link *next;
    redisReader *reader;
    char in[65536], out[65536];
    size_t queued;
    int handles;
};

static const char REDIS_PEER_MASTER[] =
    "$89\r\nrole:master\r\nmaster_replid:0123456789012345678901234567890123456789\r\n"
    "connected_slaves:0\r\n\r\n";

static inline void redis_peer_on_closed(uv_handle_t *handle)
{
    struct redis_peer_link *link = handle->data;

    if (--link->handles == 0) {
        redisReaderFree(link->reader);
        free(link);
    }
}

static inline void redis_peer_hang_up(struct redis_peer_link *link)
{
    struct redis_peer_link **at = &link->peer->links;

    while (*at && *at != link)
        at = &(*at)->next;
    if (!*at)
        return;
    *at = link->next;
    uv_close((uv_handle_t *)&link->tcp, redis_peer_on_closed);
    uv_close((uv_handle_t *)&link->prepare, redis_peer_on_closed);
}

static inline const char *redis_peer_answer(struct redis_peer *peer, const redisReply *command)
{
    const char *name = command->element[0]->str;
    const char *argument = command->elements > 1 ? command->element[1]->str : "";

    for (int i = 0; i < REDIS_PEER_RULES && peer->rules[i].command; i++) {
        struct redis_peer_rule *rule = &peer->rules[i];

        if (rule->times < 0 || strcmp(rule->command, name) != 0 ||
            (rule->argument && strcmp(rule->argument, argument) != 0))
            continue;
        if (rule->times > 0 && --rule->times == 0)
            rule->times = -1;
        return rule->reply;
    }
    if (strcmp(name, "INFO") == 0)
        return REDIS_PEER_MASTER;
    return strcmp(name, "PING") == 0 ? "+PONG\r\n" : "+OK\r\n";
}

static inline void redis_peer_on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    struct redis_peer_link *link = handle->data;

    (void)size;
    *buf = uv_buf_init(link->in, sizeof(link->in));
}

static inline void redis_peer_on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buf)
{
    struct redis_peer_link *link = stream->data;
    void *command = NULL;

    if (length < 0) {
        redis_peer_hang_up(link);
        return;
    }
    redisReaderFeed(link->reader, buf->base, (size_t)length);
    while (redisReaderGetReply(link->reader, &command) == REDIS_OK && command) {
        const char *reply = redis_peer_answer(link->peer, command);

        freeReplyObject(command);
        if (!reply)
            continue;
        assert_true(link->queued + strlen(reply) < sizeof(link->out));
        memcpy(link->out + link->queued, reply, strlen(reply));
        link->queued += strlen(reply);
    }
}

static inline void redis_peer_on_prepare(uv_prepare_t *prepare)
{
    struct redis_peer_link *link = prepare->data;
    uv_buf_t buf = uv_buf_init(link->out, link->peer->drip && link->queued > 1 ? 1 : (unsigned)link->queued);
    int written = link->queued > 0 ? uv_try_write((uv_stream_t *)&link->tcp, &buf, 1) : 0;

    if (written <= 0)
        return;
    link->queued -= (size_t)written;
    memmove(link->out, link->out + written, link->queued);
}

static inline void redis_peer_on_accept(uv_stream_t *listener, int status)
{
    struct redis_peer *peer = listener->data;
    struct redis_peer_link *link = calloc(1, sizeof(*link));

    assert_int_equal(status, 0);
    assert_non_null(link);
    link->peer = peer;
    link->reader = redisReaderCreate();
    link->tcp.data = link->prepare.data = link;
    link->handles = 2;
    uv_tcp_init(peer->loop, &link->tcp);
    uv_prepare_init(peer->loop, &link->prepare);
    assert_int_equal(uv_accept(listener, (uv_stream_t *)&link->tcp), 0);
    uv_tcp_nodelay(&link->tcp, 1);
    uv_read_start((uv_stream_t *)&link->tcp, redis_peer_on_alloc, redis_peer_on_read);
    uv_prepare_start(&link->prepare, redis_peer_on_prepare);
    link->next = peer->links;
    peer->links = link;
    peer->connections++;
}

static inline void redis_peer_open(struct redis_peer *peer, uv_loop_t *loop)
{
    struct sockaddr_in address;
    int length = sizeof(address);

    *peer = (struct redis_peer){.loop = loop};
    uv_tcp_init(loop, &peer->listener);
    peer->listener.data = peer;
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &address), 0);
    assert_int_equal(uv_tcp_bind(&peer->listener, (struct sockaddr *)&address, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&peer->listener, 16, redis_peer_on_accept), 0);
    assert_int_equal(uv_tcp_getsockname(&peer->listener, (struct sockaddr *)&address, &length), 0);
    peer->port = ntohs(address.sin_port);
}

static inline void redis_peer_close(struct redis_peer *peer)
{
    while (peer->links)
        redis_peer_hang_up(peer->links);
    uv_close((uv_handle_t *)&peer->listener, NULL);
}

#endif
