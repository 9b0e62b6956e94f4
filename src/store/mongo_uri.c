/* mongo_uri.c - reads, checks and completes the URI; talks to nobody. */
#include "mongo_uri.h"

#include <errno.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/log.h"

enum { URI_HOSTS_MAX = 64, URI_POOL_LEAST = 2 };

static const char DEFAULT_DATABASE[] = "chat_app";

bool store_mongo_wanted(const struct config *config)
{
    return config->store[0] != '\0';
}

const char *mongo_uri_database(const mongoc_uri_t *uri)
{
    const char *database = mongoc_uri_get_database(uri);

    return database && database[0] ? database : DEFAULT_DATABASE;
}

unsigned mongo_uri_pool_size(const struct config *config)
{
    int64_t workers = config->workers > 0 ? config->workers : 1, size = config->mongodb_pool_size / workers;

    return size > URI_POOL_LEAST ? (unsigned)size : URI_POOL_LEAST;
}

static const char HOW_TO_ESCAPE[] =
    "user name or password: characters other than letters, digits and -._~ have to be percent-encoded";

/* mongoc's messages don't quote user or password today; here it is made sure. What stands before the last
 * @ is taken for them: rather too much than too little. */
static void hide_secrets(const char *uri, char error[STORE_MONGO_ERROR_MAX])
{
    const char *start = strstr(uri, "://"), *end = strrchr(uri, '@'), *colon;
    char secret[CONFIG_STRING_MAX];

    if (!start || !end || end <= start + 3)
        return;
    colon = memchr(start + 3, ':', (size_t)(end - start - 3));
    colon = colon ? colon + 1 : start + 3;
    snprintf(secret, sizeof(secret), "%.*s", (int)(end - colon), colon);
    if (secret[0] && strstr(error, secret))
        snprintf(error, STORE_MONGO_ERROR_MAX, "%s", HOW_TO_ESCAPE);
}

/* With an @ in the password mongoc takes what follows it for the host, and then the log would name it. */
static bool is_ambiguous(const char *uri)
{
    const char *at = strchr(uri, '@');

    return at && strchr(at + 1, '@');
}

static void set_default(mongoc_uri_t *uri, const char *option, int32_t value)
{
    if (!mongoc_uri_has_option(uri, option))
        mongoc_uri_set_option_as_int32(uri, option, value);
}

static void set_concerns(mongoc_uri_t *uri)
{
    mongoc_write_concern_t *write = mongoc_write_concern_new();
    mongoc_read_concern_t *read = mongoc_read_concern_new();
    mongoc_read_prefs_t *prefs = mongoc_read_prefs_new(MONGOC_READ_PRIMARY);

    mongoc_write_concern_set_wmajority(write, MONGO_URI_WRITE_MS);
    mongoc_write_concern_set_journal(write, true);
    mongoc_read_concern_set_level(read, MONGOC_READ_CONCERN_LEVEL_MAJORITY);
    mongoc_uri_set_write_concern(uri, write);
    mongoc_uri_set_read_concern(uri, read);
    mongoc_uri_set_read_prefs_t(uri, prefs);
    mongoc_write_concern_destroy(write);
    mongoc_read_concern_destroy(read);
    mongoc_read_prefs_destroy(prefs);
}

mongoc_uri_t *mongo_uri_new(const struct config *config, char error[STORE_MONGO_ERROR_MAX])
{
    bson_error_t reason = {0};
    mongoc_uri_t *uri;

    if (is_ambiguous(config->store)) {
        snprintf(error, STORE_MONGO_ERROR_MAX, "%s", HOW_TO_ESCAPE);
        return NULL;
    }
    uri = mongoc_uri_new_with_error(config->store, &reason);
    if (!uri) {
        snprintf(error, STORE_MONGO_ERROR_MAX, "%.*s", STORE_MONGO_ERROR_MAX - 1, reason.message);
        hide_secrets(config->store, error);
        return NULL;
    }
    set_concerns(uri);
    set_default(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS, MONGO_URI_SELECTION_MS);
    set_default(uri, MONGOC_URI_CONNECTTIMEOUTMS, MONGO_URI_CONNECT_MS);
    set_default(uri, MONGOC_URI_SOCKETTIMEOUTMS, MONGO_URI_SOCKET_MS);
    /* A read that is tried again takes twice its time, and the client that asked can do it as well. */
    if (!mongoc_uri_has_option(uri, MONGOC_URI_RETRYREADS))
        mongoc_uri_set_option_as_bool(uri, MONGOC_URI_RETRYREADS, false);
    mongoc_uri_set_option_as_int32(uri, MONGOC_URI_MAXPOOLSIZE, (int32_t)mongo_uri_pool_size(config));
    if (!mongoc_uri_get_appname(uri))
        mongoc_uri_set_appname(uri, "chatd");
    return uri;
}

/* ---- checking ---- */

/* mongoc only warns about an option that it doesn't know, and goes on without it. */
static void on_mongoc_log(mongoc_log_level_t level, const char *domain, const char *message, void *arg)
{
    char *warning = arg;

    (void)domain;
    if (level <= MONGOC_LOG_LEVEL_WARNING && !warning[0])
        snprintf(warning, STORE_MONGO_ERROR_MAX, "%.*s", (int)strcspn(message, "\n"), message);
}

/* What would weaken the promises of an ack is overruled; who wrote it should know. */
static void say_overruled(const char *text)
{
    mongoc_uri_t *uri = mongoc_uri_new(text);
    const mongoc_write_concern_t *write = mongoc_uri_get_write_concern(uri);
    const char *read = mongoc_read_concern_get_level(mongoc_uri_get_read_concern(uri));
    mongoc_read_mode_t mode = mongoc_read_prefs_get_mode(mongoc_uri_get_read_prefs_t(uri));

    if (!mongoc_write_concern_is_default(write) &&
        (!mongoc_write_concern_get_wmajority(write) ||
         (mongoc_write_concern_journal_is_set(write) && !mongoc_write_concern_get_journal(write))))
        log_warn("mongodb_overruled", "option=write_concern used=majority,journal");
    if (read && strcmp(read, MONGOC_READ_CONCERN_LEVEL_MAJORITY) != 0)
        log_warn("mongodb_overruled", "option=read_concern given=%s used=majority", read);
    if (mode != MONGOC_READ_PRIMARY)
        log_warn("mongodb_overruled", "option=read_preference used=primary");
    mongoc_uri_destroy(uri);
}

int store_mongo_check(const struct config *config, char error[STORE_MONGO_ERROR_MAX])
{
    char warning[STORE_MONGO_ERROR_MAX] = "";
    mongoc_uri_t *uri;

    error[0] = '\0';
    mongoc_log_set_handler(on_mongoc_log, warning);
    uri = mongo_uri_new(config, error);
    mongoc_log_set_handler(NULL, NULL);
    hide_secrets(config->store, warning);
    if (!uri) {
        size_t length = strlen(error);

        if (warning[0])
            snprintf(error + length, STORE_MONGO_ERROR_MAX - length, " (%s)", warning);
        return -EINVAL;
    }
    mongoc_uri_destroy(uri);
    if (strncmp(warning, "Unsupported", strlen("Unsupported")) == 0 ||
        strncmp(warning, "Invalid", strlen("Invalid")) == 0) {
        memcpy(error, warning, sizeof(warning));
        return -EINVAL;
    }
    say_overruled(config->store);
    return 0;
}

/* ---- identity ---- */

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The order in which the hosts are named is no part of where the database is. */
void store_mongo_id(const struct config *config, uint8_t id[RING_ID_SIZE])
{
    char error[STORE_MONGO_ERROR_MAX];
    mongoc_uri_t *uri = mongo_uri_new(config, error);
    const char *names[URI_HOSTS_MAX], *srv = uri ? mongoc_uri_get_srv_hostname(uri) : NULL;
    const char *database = uri ? mongo_uri_database(uri) : "";
    struct sha256_ctx digest;
    size_t count = 0;

    if (srv)
        names[count++] = srv;
    for (const mongoc_host_list_t *host = uri && !srv ? mongoc_uri_get_hosts(uri) : NULL;
         host && count < URI_HOSTS_MAX; host = host->next)
        names[count++] = host->host_and_port;
    qsort(names, count, sizeof(names[0]), compare);
    sha256_init(&digest);
    for (size_t i = 0; i < count; i++)
        sha256_update(&digest, strlen(names[i]) + 1, (const uint8_t *)names[i]);
    sha256_update(&digest, strlen(database), (const uint8_t *)database);
    sha256_digest(&digest, RING_ID_SIZE, id);
    if (uri)
        mongoc_uri_destroy(uri);
}
