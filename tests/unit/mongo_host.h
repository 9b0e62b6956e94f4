/* mongo_host.h - what the tests of store_mongo share: a server of their own that can be frozen and
 * killed, a worker without chat, and short ways to commit and to read.
 *
 * The server is what MONGODB_URI names, else build/mongo-server, started here; without either the tests
 * skip themselves. */
#ifndef MONGO_HOST_H
#define MONGO_HOST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <mongoc/mongoc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/store_mongo.h"

enum { HOST_DEADLINE_MS = 60000 };

#define NO_KEY ((struct text){NULL, 0})

/* ---- the server ---- */

struct server {
    pid_t pid; /* 0: not ours */
    int port;
    char dir[64];
    char binary[512];
    char uri[512]; /* up to the database, without it */
};

static struct server server;

static inline int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) != 0)
        abort();
    close(fd);
    return ntohs(address.sin_port);
}

static inline bool server_answers(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)server.port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;

    close(fd);
    return ok;
}

static inline void server_start(void)
{
    int64_t deadline = clock_monotonic_ms() + HOST_DEADLINE_MS;
    char port[16];

    snprintf(port, sizeof(port), "%d", server.port);
    server.pid = fork();
    if (server.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        freopen("/dev/null", "w", stdout);
        freopen("/dev/null", "w", stderr);
        execl(server.binary, server.binary, port, server.dir, (char *)NULL);
        _exit(127);
    }
    assert_true(server.pid > 0);
    while (!server_answers()) {
        if (clock_monotonic_ms() > deadline || waitpid(server.pid, NULL, WNOHANG) == server.pid)
            fail_msg("%s does not start", server.binary);
        usleep(20000);
    }
}

static inline void server_kill(void)
{
    kill(server.pid, SIGKILL);
    waitpid(server.pid, NULL, 0);
}

static inline void server_freeze(void)
{
    kill(server.pid, SIGSTOP);
}

static inline void server_thaw(void)
{
    kill(server.pid, SIGCONT);
}

/* cmocka's group setup. */
static inline int server_set_up(void **state)
{
    const char *given = getenv("MONGODB_URI");
    ssize_t length = readlink("/proc/self/exe", server.binary, sizeof(server.binary) - 20);
    char *slash;

    (void)state;
    if (given && given[0]) {
        snprintf(server.uri, sizeof(server.uri), "%s%s", given, given[strlen(given) - 1] == '/' ? "" : "/");
        return 0;
    }
    server.binary[length] = '\0';
    for (int i = 0; i < 2; i++) {
        slash = strrchr(server.binary, '/');
        *slash = '\0';
    }
    strcat(server.binary, "/mongo-server");
    if (access(server.binary, X_OK) != 0)
        return 0;
    snprintf(server.dir, sizeof(server.dir), "/tmp/chatd-mongo-XXXXXX");
    if (!mkdtemp(server.dir))
        return -1;
    server.port = free_port();
    snprintf(server.uri, sizeof(server.uri), "mongodb://127.0.0.1:%d/", server.port);
    server_start();
    return 0;
}

static inline int server_tear_down(void **state)
{
    char command[128];

    (void)state;
    if (server.pid <= 0)
        return 0;
    server_kill();
    snprintf(command, sizeof(command), "rm -r '%s'", server.dir);
    return system(command);
}

/* First thing in a test. `own`: it does things to the server that one doesn't do to another's. A test
 * that failed may have left it frozen or dead. */
static inline void need_server(bool own)
{
    if (server.pid > 0 && waitpid(server.pid, NULL, WNOHANG) != 0)
        server_start();
    if (server.pid > 0)
        server_thaw();
    if (server.uri[0] && (server.pid > 0 || !own))
        return;
    print_message("skipped: %s\n", server.uri[0] ? "MONGODB_URI names a server that is not ours to stop"
                                                 : "no MongoDB: neither MONGODB_URI nor build/mongo-server");
    skip();
}

/* ---- a worker without chat ---- */

struct spooled {
    uint8_t uids[64][MESSAGE_UID_SIZE];
    uint32_t count;
    enum store_status answer; /* what each is answered with, at once */
};

struct host {
    struct config config;
    char dir[64];
    char log[96];
    uv_loop_t loop;
    uv_timer_t tick;
    struct store *store; /* NULL when it is closed */
    struct ring *ring;   /* without Redis; and its bus */
    struct bus *bus;
    enum bus_stand stand, stand_then; /* what bus_redis says, and from when on what else */
    int stand_calls, stand_most;      /* 0: never */
    struct spooled spooled;
};

static inline enum bus_stand host_stand(void *arg, const struct message *message)
{
    struct host *host = arg;

    (void)message;
    host->stand_calls++;
    return host->stand_most > 0 && host->stand_calls > host->stand_most ? host->stand_then : host->stand;
}

static inline void host_spooled(void *arg, const struct message *message, store_on_number *done,
                                void *done_arg)
{
    struct host *host = arg;

    if (host->spooled.count < 64)
        memcpy(host->spooled.uids[host->spooled.count], message->uid, MESSAGE_UID_SIZE);
    host->spooled.count++;
    done(done_arg, host->spooled.answer, message->seq);
}

static inline void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static inline void host_start(struct host *host)
{
    struct store_mongo_options options = {.loop = &host->loop,
                                          .config = &host->config,
                                          .ring = host->ring,
                                          .stand = host_stand,
                                          .stand_arg = host,
                                          .on_spooled = host_spooled,
                                          .spooled_arg = host};

    assert_int_equal(store_mongo_new(&host->store, &options), 0);
}

/* A data directory and a loop; `uri` NULL: a fresh database on the server. */
static inline void host_open(struct host *host, const char *uri)
{
    static int databases;

    memset(host, 0, sizeof(*host));
    config_defaults(&host->config);
    host->config.workers = 1;
    snprintf(host->dir, sizeof(host->dir), "/tmp/chatd-store-XXXXXX");
    assert_non_null(mkdtemp(host->dir));
    snprintf(host->config.data_dir, sizeof(host->config.data_dir), "%s", host->dir);
    if (uri)
        snprintf(host->config.store, sizeof(host->config.store), "%s", uri);
    else
        snprintf(host->config.store, sizeof(host->config.store), "%stest_%d_%d", server.uri, (int)getpid(),
                 databases++);
    snprintf(host->log, sizeof(host->log), "%s/log", host->dir);
    assert_int_equal(log_open(host->log, LOG_READABLE, LOG_INFO), 0);
    host->stand = BUS_STANDS;
    host->spooled.answer = STORE_OK;
    assert_int_equal(uv_loop_init(&host->loop), 0);
    uv_timer_init(&host->loop, &host->tick);
    uv_timer_start(&host->tick, on_tick, 5, 5);
}

static inline void host_stop(struct host *host, int patience_ms)
{
    store_mongo_close(host->store, patience_ms);
    host->store = NULL;
    uv_run(&host->loop, UV_RUN_NOWAIT); /* the close callbacks */
}

static inline void host_close(struct host *host)
{
    char command[128];

    if (host->store)
        host_stop(host, 5000);
    uv_close((uv_handle_t *)&host->tick, NULL);
    uv_run(&host->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&host->loop), 0);
    assert_int_equal(log_open("", LOG_READABLE, LOG_INFO), 0);
    snprintf(command, sizeof(command), "rm -r '%s'", host->dir);
    assert_int_equal(system(command), 0);
}

/* Lines of the log that hold both words. */
static inline int log_lines(const struct host *host, const char *event, const char *word)
{
    char line[LOG_LINE_MAX + 1];
    FILE *in = fopen(host->log, "r");
    int count = 0;

    assert_non_null(in);
    while (fgets(line, sizeof(line), in))
        count += strstr(line, event) && strstr(line, word);
    fclose(in);
    return count;
}

static inline void host_turn(struct host *host)
{
    uv_run(&host->loop, UV_RUN_ONCE);
    if (host->bus)
        bus_turn(host->bus);
}

#define wait_until(host, condition)                                                                          \
    do {                                                                                                     \
        int64_t until = clock_monotonic_ms() + HOST_DEADLINE_MS;                                             \
        while (!(condition)) {                                                                               \
            if (clock_monotonic_ms() > until)                                                                \
                fail_msg("never: %s", #condition);                                                           \
            host_turn(host);                                                                                 \
        }                                                                                                    \
    } while (0)

/* ---- messages ---- */

static inline struct text text(const char *string)
{
    return (struct text){string, strlen(string)};
}

/* Its event is {"seq":N}; texts live as long as their literals, the event until the next 64 messages. */
static inline struct message make_message(const char *room, const char *user, struct text key, uint64_t seq)
{
    static char events[64][64];
    static unsigned next;
    char *event = events[next++ % 64];
    struct message message = {.room = text(room),
                              .user = text(user),
                              .key = key,
                              .seq = seq,
                              .previous = seq - 1,
                              .time_ms = clock_wall_ms()};

    assert_int_equal(getrandom(message.uid, sizeof(message.uid), 0), sizeof(message.uid));
    message.event =
        (struct text){event, (size_t)snprintf(event, 64, "{\"seq\":%llu}", (unsigned long long)seq)};
    return message;
}

struct answer {
    enum store_status status;
    uint64_t seq;
    int calls;
};

static inline void on_number(void *arg, enum store_status status, uint64_t seq)
{
    struct answer *answer = arg;

    answer->status = status;
    answer->seq = seq;
    answer->calls++;
}

static inline void wait_for(struct host *host, const struct answer *answer)
{
    assert_int_equal(answer->calls, 0); /* never before the call returns */
    wait_until(host, answer->calls > 0);
    assert_int_equal(answer->calls, 1);
}

static inline struct answer commit(struct host *host, const struct message *message)
{
    struct answer answer = {0};

    store_commit(host->store, message, on_number, &answer);
    wait_for(host, &answer);
    return answer;
}

#define assert_answer(given, expected_status, expected_seq)                                                  \
    do {                                                                                                     \
        struct answer given_answer = (given);                                                                \
        assert_int_equal(given_answer.calls, 1);                                                             \
        assert_int_equal(given_answer.status, expected_status);                                              \
        assert_int_equal(given_answer.seq, expected_seq);                                                    \
    } while (0)

static inline struct answer find(struct host *host, const char *room, const char *user, struct text key,
                                 const uint8_t *uid)
{
    struct answer answer = {0};

    store_find(host->store, text(room), text(user), key, uid, on_number, &answer);
    wait_for(host, &answer);
    return answer;
}

static inline struct answer highest(struct host *host, const char *room)
{
    struct answer answer = {0};

    store_highest(host->store, text(room), on_number, &answer);
    wait_for(host, &answer);
    return answer;
}

struct page_answer {
    struct answer answer;
    uint64_t seqs[64];
    uint32_t count;
    bool more;
};

static inline void on_page(void *arg, enum store_status status, const struct page *page, bool more)
{
    struct page_answer *answer = arg;

    answer->answer.status = status;
    answer->answer.calls++;
    answer->count = page->count;
    answer->more = more;
    for (uint32_t i = 0; i < page->count && i < 64; i++) {
        const struct page_entry *entry = &page->entries[i];
        char expected[64];
        int length = snprintf(expected, sizeof(expected), "{\"seq\":%llu}", (unsigned long long)entry->seq);

        answer->seqs[i] = entry->seq;
        assert_int_equal(entry->length, length);
        assert_memory_equal(page->bytes.data + entry->offset, expected, (size_t)length);
    }
}

static inline struct page_answer read_page(struct host *host, const char *room, uint64_t above, uint64_t upto,
                                           uint32_t limit)
{
    struct page_answer answer = {0};

    store_page(host->store, text(room), above, upto, limit, on_page, &answer);
    wait_for(host, &answer.answer);
    return answer;
}

static inline void assert_page(struct host *host, const char *room, uint64_t above, uint64_t upto,
                               uint32_t limit, const uint64_t *seqs, uint32_t count, bool more)
{
    struct page_answer answer = read_page(host, room, above, upto, limit);

    assert_int_equal(answer.answer.status, STORE_OK);
    assert_int_equal(answer.count, count);
    assert_int_equal(answer.more, more);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(answer.seqs[i], seqs[i]);
}

static inline bool is_healthy(struct host *host)
{
    struct store_health health;

    store_health(host->store, &health);
    assert_int_equal(health.ok, health.error[0] == '\0');
    return health.ok;
}

static inline bool health_says(struct host *host, const char *word)
{
    struct store_health health;

    store_health(host->store, &health);
    return !health.ok && strstr(health.error, word);
}

/* ---- looking beside the store ---- */

static inline mongoc_client_t *beside(const struct host *host)
{
    mongoc_client_t *client = mongoc_client_new(host->config.store);

    assert_non_null(client);
    return client;
}

static inline mongoc_collection_t *collection_of(const struct host *host, mongoc_client_t *client,
                                                 const char *name)
{
    return mongoc_client_get_collection(client, strrchr(host->config.store, '/') + 1, name);
}

static inline int64_t count_documents(const struct host *host, const char *name)
{
    mongoc_client_t *client = beside(host);
    mongoc_collection_t *collection = collection_of(host, client, name);
    bson_t filter = BSON_INITIALIZER;
    bson_error_t error = {0};
    int64_t count = mongoc_collection_count_documents(collection, &filter, NULL, NULL, NULL, &error);

    if (count < 0)
        fail_msg("%s", error.message);
    mongoc_collection_destroy(collection);
    mongoc_client_destroy(client);
    return count;
}

/* The document of that name, to be destroyed; NULL when there is none. */
static inline bson_t *get_document(const struct host *host, const char *name, const char *id)
{
    mongoc_client_t *client = beside(host);
    mongoc_collection_t *collection = collection_of(host, client, name);
    bson_t *filter = BCON_NEW("_id", BCON_UTF8(id)), *copy = NULL;
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(collection, filter, NULL, NULL);
    const bson_t *row;

    if (mongoc_cursor_next(cursor, &row))
        copy = bson_copy(row);
    mongoc_cursor_destroy(cursor);
    bson_destroy(filter);
    mongoc_collection_destroy(collection);
    mongoc_client_destroy(client);
    return copy;
}

/* Runs a command on the host's database; given as JSON. */
static inline void run_command(const struct host *host, const char *json)
{
    mongoc_client_t *client = beside(host);
    bson_error_t error = {0};
    bson_t *command = bson_new_from_json((const uint8_t *)json, -1, &error);

    if (!command || !mongoc_client_command_simple(client, strrchr(host->config.store, '/') + 1, command, NULL,
                                                  NULL, &error))
        fail_msg("%s: %s", json, error.message);
    bson_destroy(command);
    mongoc_client_destroy(client);
}

#endif
