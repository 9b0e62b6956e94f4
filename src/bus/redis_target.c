/* redis_target.c - the settings that name a Redis, taken apart.
 *
 * What was written is never repeated in an error: a mistake may have moved a password to where a port
 * belongs. */
#include "redis_target.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "redis_conn.h"

enum { PORT_SERVER = 6379, PORT_SENTINEL = 26379, DATABASE_MAX = 1000 };

struct scheme {
    const char *prefix;
    enum redis_form form;
    bool tls;
};

static const struct scheme schemes[] = {
    {"redis://", REDIS_SINGLE, false},
    {"rediss://", REDIS_SINGLE, true},
    {"redis+sentinel://", REDIS_SENTINEL, false},
    {"rediss+sentinel://", REDIS_SENTINEL, true},
    {"redis+cluster://", REDIS_CLUSTER, false},
    {"rediss+cluster://", REDIS_CLUSTER, true},
};

/* What is read, and where a complaint goes. */
struct reading {
    struct redis_target *target;
    const char *setting;
    unsigned server; /* the one that is read, from 1 on; 0: none in particular */
    char *error;
    size_t size;
};

/* A piece of what was written. */
struct span {
    const char *data;
    size_t length;
};

static bool complain(const struct reading *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool complain(const struct reading *r, const char *format, ...)
{
    char reason[300];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(reason, sizeof(reason), format, arguments);
    va_end(arguments);
    if (r->server > 0)
        snprintf(r->error, r->size, "%s: server %u: %s", r->setting, r->server, reason);
    else
        snprintf(r->error, r->size, "%s: %s", r->setting, reason);
    return false;
}

static struct span span_of(const char *string)
{
    return (struct span){string, strlen(string)};
}

/* Takes what stands before the first `mark`, and the mark, off `rest`; all of it when there is none. */
static struct span take_until(struct span *rest, char mark, bool *found)
{
    const char *at = rest->length > 0 ? memchr(rest->data, mark, rest->length) : NULL;
    struct span head = {rest->data, at ? (size_t)(at - rest->data) : rest->length};

    *found = at != NULL;
    rest->data += head.length + *found;
    rest->length -= head.length + *found;
    return head;
}

static bool contains(struct span text, const char *what)
{
    return text.data && memmem(text.data, text.length, what, strlen(what));
}

static bool read_number(struct span text, long min, long max, int *number)
{
    long value = 0;

    if (text.length == 0 || text.length > 6)
        return false;
    for (size_t i = 0; i < text.length; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
        value = value * 10 + (text.data[i] - '0');
    }
    *number = (int)value;
    return value >= min && value <= max;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_secret(const struct reading *r, struct span text, const char *what, char *out)
{
    size_t length = 0;

    for (size_t i = 0; i < text.length; i++) {
        char c = text.data[i];

        if (c == '%') {
            int high = i + 2 < text.length ? hex_digit(text.data[i + 1]) : -1;
            int low = i + 2 < text.length ? hex_digit(text.data[i + 2]) : -1;

            if (high < 0 || low < 0)
                return complain(r, "%% in the %s without two hex digits after it (a %% itself is %%25)",
                                what);
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == '\0')
            return complain(r, "the %s has a NUL character", what);
        if (length + 1 >= REDIS_SECRET_MAX)
            return complain(r, "the %s is longer than %d bytes", what, REDIS_SECRET_MAX - 1);
        out[length++] = c;
    }
    out[length] = '\0';
    return true;
}

/* Several servers share one sign-in: what a later one names has to be the same. */
static bool keep_secret(const struct reading *r, const char *what, char *kept, const char *read)
{
    if (read[0] == '\0' || strcmp(kept, read) == 0)
        return true;
    if (kept[0] != '\0')
        return complain(r, "another %s than a server before it; all need the same", what);
    strcpy(kept, read);
    return true;
}

/* Takes `user:password@` off `rest`, if it is there. */
static bool take_sign_in(const struct reading *r, struct span *rest)
{
    const char *at = rest->length > 0 ? memrchr(rest->data, '@', rest->length) : NULL;
    char user[REDIS_SECRET_MAX], password[REDIS_SECRET_MAX];
    struct span both, name;
    bool found;

    if (!at)
        return true;
    both = (struct span){rest->data, (size_t)(at - rest->data)};
    *rest = (struct span){at + 1, rest->length - both.length - 1};
    name = take_until(&both, ':', &found);
    return read_secret(r, name, "user", user) && read_secret(r, both, "password", password) &&
           keep_secret(r, "user", r->target->user, user) &&
           keep_secret(r, "password", r->target->password, password);
}

static bool is_name(struct span host)
{
    for (size_t i = 0; i < host.length; i++) {
        char c = host.data[i], letter = (char)(c | 0x20);

        if (!(letter >= 'a' && letter <= 'z') && !(c >= '0' && c <= '9') && c != '.' && c != '-' && c != '_')
            return false;
    }
    return host.length > 0;
}

static bool is_ipv6(const char *host)
{
    struct in6_addr address;

    return inet_pton(AF_INET6, host, &address) == 1;
}

static bool add_server(const struct reading *r, struct span host, int port)
{
    struct redis_target *target = r->target;
    struct redis_address *server = &target->servers[target->count];

    if (target->count == REDIS_SERVERS_MAX)
        return complain(r, "more than %d servers", REDIS_SERVERS_MAX);
    if (host.length == 0)
        return complain(r, "no host");
    if (host.length >= REDIS_HOST_MAX)
        return complain(r, "the host is longer than %d bytes", REDIS_HOST_MAX - 1);
    memcpy(server->host, host.data, host.length);
    server->host[host.length] = '\0';
    server->port = port;
    target->count++;
    return true;
}

/* `host`, `host:port`, `[address]`, `[address]:port` */
static bool read_server(const struct reading *r, struct span text, int port)
{
    bool found, bracket = text.length > 0 && text.data[0] == '[';
    struct span rest = {text.data + bracket, text.length - bracket};
    struct span host = take_until(&rest, bracket ? ']' : ':', &found);

    if (bracket) {
        bool colon = rest.length > 0 && rest.data[0] == ':';

        if (!found || (rest.length > 0 && !colon))
            return complain(r, "an IPv6 address stands in [ ], then :port or nothing");
        rest.data += colon;
        rest.length -= colon;
        found = colon;
    }
    if (found && !read_number(rest, 1, 65535, &port))
        return complain(r, "the port is not a number from 1 to 65535 (an IPv6 address stands in brackets, "
                           "and @ : / , in a password are written %%40 %%3A %%2F %%2C)");
    if (!add_server(r, host, port))
        return false;
    if (bracket ? !is_ipv6(r->target->servers[r->target->count - 1].host) : !is_name(host))
        return complain(r, "%s", bracket ? "what stands in [ ] is not an IPv6 address"
                                         : "not a host name or address");
    return true;
}

static bool read_database(const struct reading *r, struct span text)
{
    if (contains(text, "@"))
        return complain(r, "a / before the @ (in a password it is written %%2F)");
    if (!read_number(text, 0, DATABASE_MAX, &r->target->database))
        return complain(r, "the database is not a number from 0 to %d", DATABASE_MAX);
    return true;
}

static const struct scheme *find_scheme(const char *text)
{
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (strncmp(text, schemes[i].prefix, strlen(schemes[i].prefix)) == 0)
            return &schemes[i];
    }
    return NULL;
}

/* One of `redis://…,redis://…`. */
static bool read_single(const struct reading *r, struct span text, const struct scheme *scheme)
{
    size_t prefix = strlen(scheme->prefix);
    bool whole = text.length >= prefix && memcmp(text.data, scheme->prefix, prefix) == 0, path;
    int before = r->target->database;
    struct span server;

    if (whole)
        text = (struct span){text.data + prefix, text.length - prefix};
    else if (contains(text, "://") || contains(text, "@"))
        return complain(r, "doesn't begin with %s like the first (a comma in a password is written %%2C)",
                        scheme->prefix);
    server = take_until(&text, '/', &path);
    if (!take_sign_in(r, &server) || (text.length > 0 && !read_database(r, text)) ||
        !read_server(r, server, PORT_SERVER))
        return false;
    if (text.length == 0)
        r->target->database = 0;
    if (r->target->count > 1 && r->target->database != before)
        return complain(r, "another database than the server before it; all need the same");
    for (unsigned i = 0; i + 1 < r->target->count; i++) {
        if (redis_address_equal(&r->target->servers[i], &r->target->servers[r->target->count - 1]))
            return complain(r, "the same as server %u", i + 1);
    }
    return true;
}

static bool read_singles(struct reading *r, struct span text, const struct scheme *scheme)
{
    bool more = true;

    while (more) {
        struct span one = take_until(&text, ',', &more);

        r->server++;
        if (!read_single(r, one, scheme))
            return false;
    }
    if (r->target->count > 1)
        r->target->form = REDIS_SHARDS;
    return true;
}

/* `[user:password@]host:port,host:port`, of sentinels or nodes of a cluster. */
static bool read_seeds(struct reading *r, struct span text, int port)
{
    bool more = true;

    if (!take_sign_in(r, &text))
        return false;
    while (more) {
        struct span one = take_until(&text, ',', &more);

        r->server++;
        if (!read_server(r, one, port))
            return false;
    }
    r->server = 0;
    return true;
}

static bool read_sentinels(struct reading *r, struct span text)
{
    bool path, more;
    struct span seeds = take_until(&text, '/', &path);
    struct span name = take_until(&text, '/', &more);

    if (contains(name, "@"))
        return complain(r, "a / before the @ (in a password it is written %%2F)");
    if (name.length == 0)
        return complain(r, "the name of the master is missing: redis+sentinel://host:port,host:port/NAME");
    if (name.length >= REDIS_NAME_MAX)
        return complain(r, "the name of the master is longer than %d bytes", REDIS_NAME_MAX - 1);
    memcpy(r->target->master_name, name.data, name.length);
    return (!more || read_database(r, text)) && read_seeds(r, seeds, PORT_SENTINEL);
}

static bool read_cluster(struct reading *r, struct span text)
{
    bool path;
    struct span seeds = take_until(&text, '/', &path);

    if (text.length > 0 && (!read_database(r, text) || r->target->database != 0))
        return r->target->database != 0 ? complain(r, "a cluster has database 0 alone") : false;
    return read_seeds(r, seeds, PORT_SERVER);
}

/* `/path` or `/path?db=N` */
static bool read_socket(const struct reading *r, struct span text)
{
    bool query;
    struct span path = take_until(&text, '?', &query);

    if (path.length == 0 || path.data[0] != '/')
        return complain(r, "the path of a socket begins with /: unix:///run/redis/redis.sock");
    if (path.length >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return complain(r, "the path of a socket is shorter than %zu bytes",
                        sizeof(((struct sockaddr_un *)0)->sun_path));
    if (query) {
        if (text.length < 3 || memcmp(text.data, "db=", 3) != 0)
            return complain(r, "after ? stands db=N and nothing else");
        if (!read_database(r, (struct span){text.data + 3, text.length - 3}))
            return false;
    }
    return add_server(r, path, 0);
}

static bool read_url(struct reading *r, const char *url)
{
    const struct scheme *scheme = find_scheme(url);
    struct span rest;

    if (strncmp(url, "unix://", 7) == 0)
        return read_socket(r, span_of(url + 7));
    if (!scheme && strstr(url, "://"))
        return complain(r, "begins with none of redis:// rediss:// unix:// redis+sentinel:// "
                           "rediss+sentinel:// redis+cluster:// rediss+cluster://");
    if (!scheme)
        return read_singles(r, span_of(url), &schemes[0]);
    r->target->form = scheme->form;
    r->target->tls = scheme->tls;
    if (scheme->form == REDIS_SINGLE)
        return read_singles(r, span_of(url), scheme);
    rest = span_of(url + strlen(scheme->prefix));
    return scheme->form == REDIS_SENTINEL ? read_sentinels(r, rest) : read_cluster(r, rest);
}

static bool read_host(struct reading *r, const struct config *config)
{
    r->setting = "redis_host";
    r->target->database = (int)config->redis_database;
    if (is_ipv6(config->redis_host))
        return add_server(r, span_of(config->redis_host), (int)config->redis_port);
    if (!is_name(span_of(config->redis_host)))
        return complain(r, "not a host name or address (for a URL there is the setting redis)");
    return add_server(r, span_of(config->redis_host), (int)config->redis_port);
}

static bool fill_secret(const struct reading *r, const char *setting, char *out, const char *value)
{
    if (out[0] == '\0' && strlen(value) < REDIS_SECRET_MAX)
        strcpy(out, value);
    else if (out[0] == '\0')
        snprintf(r->error, r->size, "%s: longer than %d bytes", setting, REDIS_SECRET_MAX - 1);
    return out[0] != '\0' || value[0] == '\0';
}

bool redis_target_parse(struct redis_target *target, const struct config *config, char *error, size_t size)
{
    struct reading r = {.target = target, .setting = "redis", .error = error, .size = size};

    *target = (struct redis_target){.form = REDIS_SINGLE};
    if (config->redis[0] != '\0' && config->redis_host[0] != '\0')
        return complain(&r, "set together with redis_host; only one of them says which Redis is meant");
    if (!redis_target_given(config))
        return complain(&r, "neither this nor redis_host is set");
    if (!(config->redis[0] != '\0' ? read_url(&r, config->redis) : read_host(&r, config)) ||
        !fill_secret(&r, "redis_user", target->user, config->redis_user) ||
        !fill_secret(&r, "redis_password", target->password, config->redis_password) ||
        !fill_secret(&r, "redis_sentinel_password", target->sentinel_password,
                     config->redis_sentinel_password))
        return false;
    r.server = 0;
    if (target->user[0] != '\0' && target->password[0] == '\0')
        return complain(&r, "a user without a password (redis_password, or user:password@ in the URL)");
    if (target->tls && !redis_conn_has_tls())
        return complain(&r,
                        "rediss: needs a hiredis with TLS (1.0 or newer); this chatd was built with %d.%d.%d",
                        HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
    return true;
}

bool redis_target_given(const struct config *config)
{
    return config->redis[0] != '\0' || config->redis_host[0] != '\0';
}

bool redis_address_equal(const struct redis_address *a, const struct redis_address *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

void redis_address_name(const struct redis_address *address, char name[REDIS_ADDRESS_MAX])
{
    if (address->port == 0)
        snprintf(name, REDIS_ADDRESS_MAX, "%s", address->host);
    else
        snprintf(name, REDIS_ADDRESS_MAX, strchr(address->host, ':') ? "[%s]:%d" : "%s:%d", address->host,
                 address->port);
}

void redis_target_name(const struct redis_target *target, char *name, size_t size)
{
    static const char *const forms[] = {"", "shards ", "sentinel ", "cluster "};
    char server[REDIS_ADDRESS_MAX];

    redis_address_name(&target->servers[0], server);
    snprintf(name, size, "%s%s", forms[target->form],
             target->form == REDIS_SENTINEL ? target->master_name : server);
}
