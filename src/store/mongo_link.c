/* mongo_link.c - the pool, and who of its users finds MongoDB working. */
#include "mongo_link.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "mongo_uri.h"

enum { CAUSES_MAX = 12 }; /* as many as there are */

struct role_state {
    const char *cause; /* NULL while it works */
    int64_t failed_ms; /* monotonic; of the last failure: when it was told */
    char error[RING_ERROR_MAX];
};

struct mongo_link {
    mongoc_uri_t *uri;
    pthread_mutex_t mutex;
    mongoc_client_pool_t *pool; /* NULL before the first pop, and until it can be made */
    struct role_state roles[MONGO_ROLES];
    enum mongo_state state;
    int64_t since_ms;             /* Unix time of the last change of state */
    int64_t worked_ms;            /* monotonic; when the last thing that worked began */
    const char *said[CAUSES_MAX]; /* causes logged since all was well */
};

/* ---- causes ---- */

/* https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml */
static const char *server_cause(uint32_t code)
{
    switch (code) {
    case 18: /* AuthenticationFailed */
        return "auth";
    case 13: /* Unauthorized */
        return "unauthorized";
    case 50: /* MaxTimeMSExpired */
        return "timeout";
    case 64:  /* WriteConcernFailed */
    case 79:  /* UnknownReplWriteConcern */
    case 100: /* UnsatisfiableWriteConcern */
        return "write_concern";
    case 91:    /* ShutdownInProgress */
    case 189:   /* PrimarySteppedDown */
    case 10058: /* LegacyNotPrimary */
    case 10107: /* NotWritablePrimary */
    case 11600: /* InterruptedAtShutdown */
    case 11602: /* InterruptedDueToReplStateChange */
    case 13435: /* NotPrimaryNoSecondaryOk */
    case 13436: /* NotPrimaryOrSecondary */
        return "not_primary";
    default:
        return "server";
    }
}

static const char *own_cause(uint32_t code)
{
    switch ((enum mongo_error)code) {
    case MONGO_ERROR_MAJORITY:
        return "write_concern";
    case MONGO_ERROR_LEASE:
        return "lease";
    case MONGO_ERROR_INDEX:
        return "index";
    case MONGO_ERROR_URI:
        break;
    }
    return "client";
}

const char *mongo_error_cause(const bson_error_t *error)
{
    switch (error->domain) {
    case MONGO_ERROR_DOMAIN:
        return own_cause(error->code);
    case MONGOC_ERROR_SERVER_SELECTION:
        return "server_selection";
    case MONGOC_ERROR_STREAM:
        return "network";
    case MONGOC_ERROR_SASL:
    case MONGOC_ERROR_SCRAM:
        return "auth";
    case MONGOC_ERROR_CLIENT:
        return error->code == MONGOC_ERROR_CLIENT_AUTHENTICATE ? "auth" : "client";
    case MONGOC_ERROR_WRITE_CONCERN:
        return "write_concern";
    case MONGOC_ERROR_SERVER:
        return server_cause(error->code);
    default:
        return "client";
    }
}

void mongo_error_set(bson_error_t *error, enum mongo_error code, const char *format, ...)
{
    va_list args;

    error->domain = MONGO_ERROR_DOMAIN;
    error->code = code;
    va_start(args, format);
    vsnprintf(error->message, sizeof(error->message), format, args);
    va_end(args);
}

void mongo_error_text(const bson_error_t *error, char *text, size_t size)
{
    const char *cause = mongo_error_cause(error);
    size_t room = size - strlen(cause) - sizeof(": ");

    snprintf(text, size, "%s: %.*s", cause, (int)room, error->message);
}

/* ---- the pool ---- */

/* It would write each failed try to standard error. */
static void on_mongoc_log(mongoc_log_level_t level, const char *domain, const char *message, void *arg)
{
    (void)arg;
    if (level <= MONGOC_LOG_LEVEL_WARNING)
        log_debug("mongoc", "domain=%s text=%s", domain, message);
}

int mongo_link_new(struct mongo_link **out, const struct config *config)
{
    char error[STORE_MONGO_ERROR_MAX] = "";
    mongoc_uri_t *uri;
    struct mongo_link *link;

    mongoc_init();
    mongoc_log_set_handler(on_mongoc_log, NULL);
    uri = mongo_uri_new(config, error);
    if (!uri) {
        log_error("mongodb_uri", "error=%s", error);
        return -EINVAL;
    }
    link = calloc(1, sizeof(*link));
    if (!link) {
        mongoc_uri_destroy(uri);
        return -ENOMEM;
    }
    link->uri = uri;
    link->since_ms = clock_wall_ms();
    pthread_mutex_init(&link->mutex, NULL);
    *out = link;
    return 0;
}

void mongo_link_free(struct mongo_link *link)
{
    if (link->pool)
        mongoc_client_pool_destroy(link->pool);
    mongoc_uri_destroy(link->uri);
    pthread_mutex_destroy(&link->mutex);
    free(link);
}

const char *mongo_link_database(const struct mongo_link *link)
{
    return mongo_uri_database(link->uri);
}

/* Outside of the mutex, because it may ask the DNS and the loop looks at the state meanwhile; who comes
 * second throws its own pool away. */
static mongoc_client_pool_t *get_pool(struct mongo_link *link, bson_error_t *error)
{
    mongoc_client_pool_t *pool, *mine;

    pthread_mutex_lock(&link->mutex);
    pool = link->pool;
    pthread_mutex_unlock(&link->mutex);
    if (pool)
        return pool;
    mine = mongoc_client_pool_new_with_error(link->uri, error);
    if (!mine)
        return NULL;
    mongoc_client_pool_set_error_api(mine, MONGOC_ERROR_API_VERSION_2);
    pthread_mutex_lock(&link->mutex);
    if (!link->pool) {
        link->pool = mine;
        mine = NULL;
    }
    pool = link->pool;
    pthread_mutex_unlock(&link->mutex);
    if (mine)
        mongoc_client_pool_destroy(mine);
    return pool;
}

mongoc_client_t *mongo_link_pop(struct mongo_link *link, bson_error_t *error)
{
    mongoc_client_pool_t *pool = get_pool(link, error);
    mongoc_client_t *client = pool ? mongoc_client_pool_pop(pool) : NULL;

    if (pool && !client)
        mongo_error_set(error, MONGO_ERROR_URI, "no connection came free in time");
    return client;
}

void mongo_link_push(struct mongo_link *link, mongoc_client_t *client)
{
    if (client)
        mongoc_client_pool_push(link->pool, client);
}

/* ---- what is known ---- */

static const struct role_state *first_failing(const struct mongo_link *link)
{
    for (int i = 0; i < MONGO_ROLES; i++) {
        if (link->roles[i].cause)
            return &link->roles[i];
    }
    return NULL;
}

/* Notes the cause; true when it wasn't said yet. An outage may show by turns as one cause and another. */
static bool is_news(struct mongo_link *link, const char *cause)
{
    int i = 0;

    while (i < CAUSES_MAX && link->said[i]) {
        if (strcmp(link->said[i++], cause) == 0)
            return false;
    }
    if (i < CAUSES_MAX)
        link->said[i] = cause;
    return true;
}

/* Of the server as a whole, not of what somebody wanted of it. */
static bool is_reach(const char *cause)
{
    return strcmp(cause, "network") == 0 || strcmp(cause, "server_selection") == 0;
}

void mongo_link_failed(struct mongo_link *link, enum mongo_role role, int64_t start_ms,
                       const bson_error_t *error)
{
    const char *cause = mongo_error_cause(error);
    struct role_state *state = &link->roles[role];
    bool news;

    pthread_mutex_lock(&link->mutex);
    if (is_reach(cause) && start_ms < link->worked_ms) {
        pthread_mutex_unlock(&link->mutex);
        return;
    }
    news = is_news(link, cause);
    if (!state->cause || strcmp(state->cause, cause) != 0)
        mongo_error_text(error, state->error, sizeof(state->error));
    state->cause = cause;
    state->failed_ms = clock_monotonic_ms();
    if (link->state != MONGO_LOST)
        link->since_ms = clock_wall_ms();
    link->state = MONGO_LOST;
    pthread_mutex_unlock(&link->mutex);
    if (news)
        log_error("mongodb_lost", "cause=%s error=%s", cause, error->message);
}

/* Whether what one role did successfully from start_ms on proves that another one's failure is over. */
static bool is_over(const struct role_state *state, bool own, bool reader, int64_t start_ms)
{
    if (!state->cause || state->failed_ms > start_ms)
        return false;
    return own || is_reach(state->cause) ||
           (reader && clock_monotonic_ms() - state->failed_ms > MONGO_LINK_FORGET_MS);
}

void mongo_link_works(struct mongo_link *link, enum mongo_role role, int64_t start_ms)
{
    int64_t lost_ms = 0;
    bool news = false;

    pthread_mutex_lock(&link->mutex);
    if (start_ms > link->worked_ms)
        link->worked_ms = start_ms;
    for (int i = 0; i < MONGO_ROLES; i++) {
        if (is_over(&link->roles[i], i == (int)role, i == MONGO_READER, start_ms))
            link->roles[i].cause = NULL;
    }
    if (link->state != MONGO_READY && !first_failing(link)) {
        lost_ms = link->state == MONGO_LOST ? clock_wall_ms() - link->since_ms : 0;
        link->state = MONGO_READY;
        link->since_ms = clock_wall_ms();
        memset(link->said, 0, sizeof(link->said));
        news = true;
    }
    pthread_mutex_unlock(&link->mutex);
    if (news)
        log_info("mongodb_ready", "database=%s lost_ms=%lld", mongo_link_database(link), (long long)lost_ms);
}

enum mongo_state mongo_link_state(struct mongo_link *link)
{
    enum mongo_state state;

    pthread_mutex_lock(&link->mutex);
    state = link->state;
    pthread_mutex_unlock(&link->mutex);
    return state;
}

void mongo_link_health(struct mongo_link *link, struct store_health *health)
{
    const struct role_state *failing;

    pthread_mutex_lock(&link->mutex);
    failing = first_failing(link);
    health->ok = link->state == MONGO_READY;
    health->since_ms = link->since_ms;
    health->error[0] = '\0';
    if (!health->ok)
        snprintf(health->error, sizeof(health->error), "%s",
                 failing ? failing->error : "connecting to MongoDB");
    pthread_mutex_unlock(&link->mutex);
}

/* ---- chatd -t ---- */

int store_mongo_probe(const struct config *config, char error[STORE_MONGO_ERROR_MAX])
{
    bson_error_t reason = {0};
    struct mongo_link *link;
    mongoc_client_t *client;
    bson_t ping = BSON_INITIALIZER;
    bool ok = false;
    int status = mongo_link_new(&link, config);

    error[0] = '\0';
    if (status != 0) {
        snprintf(error, STORE_MONGO_ERROR_MAX, "the URI can't be used");
        return status;
    }
    BSON_APPEND_INT32(&ping, "ping", 1);
    client = mongo_link_pop(link, &reason);
    if (client)
        ok = mongoc_client_command_simple(client, mongo_link_database(link), &ping, NULL, NULL, &reason);
    if (!ok)
        mongo_error_text(&reason, error, STORE_MONGO_ERROR_MAX);
    bson_destroy(&ping);
    mongo_link_push(link, client);
    mongo_link_free(link);
    return ok ? 0 : -EIO;
}
