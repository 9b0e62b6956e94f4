/* redis_target.h - which Redis is meant: the settings `redis`, or redis_host and its kin, taken apart.
 *
 * An open value; no sockets, no DNS. Forms:
 *
 *     redis://[user[:password]@]host[:port][/database]     one server (6379, 0; `host:port` alone as well)
 *     redis://...,redis://...                              shards: rooms are spread over them, in this order
 *     unix:///path[?db=N]                                  one server on its socket
 *     redis+sentinel://[user:password@]host[:port],host[:port]/master-name[/database]      (26379)
 *     redis+cluster://[user:password@]host[:port],host[:port]
 *
 * rediss:// (and rediss+sentinel, rediss+cluster) is the same over TLS, which needs a hiredis that has it
 * (redis_conn_has_tls). Percent-encoding in user and password. IPv6 addresses stand in brackets. A user or
 * password in the URL counts before redis_user and redis_password. Shards share user, password and
 * database. */
#ifndef CHATD_BUS_REDIS_TARGET_H
#define CHATD_BUS_REDIS_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/config.h"

enum { REDIS_SERVERS_MAX = 64, REDIS_HOST_MAX = 256, REDIS_SECRET_MAX = 256, REDIS_NAME_MAX = 128 };
enum { REDIS_ADDRESS_MAX = REDIS_HOST_MAX + 16 };

enum redis_form { REDIS_SINGLE, REDIS_SHARDS, REDIS_SENTINEL, REDIS_CLUSTER };

/* A server's address as it was written: a name is looked up at every connect. Equal when both members are. */
struct redis_address {
    char host[REDIS_HOST_MAX]; /* or the path of a socket: begins with '/' */
    int port;                  /* 0 for a socket */
};

bool redis_address_equal(const struct redis_address *a, const struct redis_address *b);

/* As log lines name it: `127.0.0.1:6379`, `[::1]:6379`, `/run/redis.sock`. */
void redis_address_name(const struct redis_address *address, char name[REDIS_ADDRESS_MAX]);

struct redis_target {
    enum redis_form form;
    bool tls;
    unsigned count;                             /* of servers: the shards, or seeds, or sentinels */
    struct redis_address servers[REDIS_SERVERS_MAX];
    char user[REDIS_SECRET_MAX], password[REDIS_SECRET_MAX]; /* empty: none */
    char sentinel_password[REDIS_SECRET_MAX];
    char master_name[REDIS_NAME_MAX];           /* REDIS_SENTINEL */
    int database;
};

/* From the settings. False with the reason in `error` (which setting, what is wrong, what is allowed), also
 * when both `redis` and `redis_host` are set, and when there is none of them. Secrets are never in
 * `error`. */
bool redis_target_parse(struct redis_target *target, const struct config *config, char *error, size_t size)
    __attribute__((warn_unused_result));

/* Whether the settings name a Redis at all. */
bool redis_target_given(const struct config *config);

/* A short name for log lines, without secrets: `127.0.0.1:6379`, `shards 127.0.0.1:6379`, `sentinel
 * mymaster`, `cluster 10.0.0.1:7000`. */
void redis_target_name(const struct redis_target *target, char *name, size_t size);

#endif
