/* mongo_lease.c - one document that one host keeps touching. */
#include "mongo_lease.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "mongo_follower.h"
#include "mongo_schema.h"

enum { HOST_ID_LENGTH = 16 };

/* ---- the owner's name ---- */

static bool write_id(int fd, char id[HOST_ID_LENGTH + 1])
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return false;
    snprintf(id, HOST_ID_LENGTH + 1, "%016llx", (unsigned long long)random);
    return pwrite(fd, id, HOST_ID_LENGTH, 0) == HOST_ID_LENGTH && fsync(fd) == 0;
}

/* Only the host's one writer comes here, so nobody else makes the file meanwhile. */
static int read_id(const char *data_dir, char id[HOST_ID_LENGTH + 1])
{
    char path[PATH_MAX];
    int fd, status = 0;

    if (snprintf(path, sizeof(path), "%s/host.id", data_dir) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    id[HOST_ID_LENGTH] = '\0';
    if (pread(fd, id, HOST_ID_LENGTH, 0) != HOST_ID_LENGTH && !write_id(fd, id))
        status = errno != 0 ? -errno : -EIO;
    close(fd);
    return status;
}

int mongo_lease_init(struct mongo_lease *lease, const char *data_dir, char error[RING_ERROR_MAX])
{
    char host[256] = "", id[HOST_ID_LENGTH + 1];
    int status = read_id(data_dir, id);

    *lease = (struct mongo_lease){.id = "host", .ms = MONGO_LEASE_MS, .renew_ms = MONGO_LEASE_RENEW_MS};
    if (status != 0) {
        snprintf(error, RING_ERROR_MAX, "host.id in the data directory: %s", strerror(-status));
        return status;
    }
    gethostname(host, sizeof(host) - 1);
    snprintf(lease->owner, sizeof(lease->owner), "%s:%.*s:%s", host, PATH_MAX - HOST_ID_LENGTH - 8, data_dir,
             id);
    return 0;
}

int mongo_lease_init_worker(struct mongo_lease *lease, const char *id, int ms)
{
    char host[256] = "";
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return -EIO;
    gethostname(host, sizeof(host) - 1);
    *lease = (struct mongo_lease){.id = id, .ms = ms, .renew_ms = ms / 4};
    snprintf(lease->owner, sizeof(lease->owner), "%s:%d:%016llx", host, (int)getpid(),
             (unsigned long long)random);
    return 0;
}

/* ---- the document ---- */

struct step {
    mongoc_collection_t *leases;
    const struct mongo_lease *lease;
    bson_error_t *error;
};

static int64_t until_ms(const struct step *step)
{
    return clock_wall_ms() + step->lease->ms;
}

/* Makes it ours if it is `owner`'s still, with that `until` unless it is 0. *changed says whether it was. */
static bool touch(struct step *step, const char *owner, int64_t until, const char *mine, bool *changed)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER, set, reply;
    bool ok;

    BSON_APPEND_UTF8(&filter, "_id", step->lease->id);
    BSON_APPEND_UTF8(&filter, "owner", owner);
    if (until != 0)
        BSON_APPEND_DATE_TIME(&filter, "until", until);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    BSON_APPEND_UTF8(&set, "owner", mine);
    BSON_APPEND_DATE_TIME(&set, "until", until_ms(step));
    bson_append_document_end(&update, &set);
    ok = mongoc_collection_update_one(step->leases, &filter, &update, NULL, &reply, step->error);
    *changed = ok && mongo_schema_get_number(&reply, "matchedCount") > 0;
    bson_destroy(&reply);
    bson_destroy(&update);
    bson_destroy(&filter);
    return ok;
}

/* *made is false when somebody has it. */
static bool make(struct step *step, const char *mine, bool *made)
{
    bson_t lease = BSON_INITIALIZER;
    bool ok;

    BSON_APPEND_UTF8(&lease, "_id", step->lease->id);
    BSON_APPEND_UTF8(&lease, "owner", mine);
    BSON_APPEND_DATE_TIME(&lease, "until", until_ms(step));
    ok = mongoc_collection_insert_one(step->leases, &lease, NULL, NULL, step->error);
    bson_destroy(&lease);
    *made = ok;
    return ok || step->error->code == MONGO_DUPLICATE;
}

/* Whose it is, and since when it looks as it does. An empty `other`: nobody's any more. */
static bool watch(struct step *step, struct mongo_lease *lease)
{
    bson_t filter = BSON_INITIALIZER;
    mongoc_cursor_t *cursor;
    const bson_t *row;
    bool ok;

    BSON_APPEND_UTF8(&filter, "_id", step->lease->id);
    cursor = mongoc_collection_find_with_opts(step->leases, &filter, NULL, NULL);
    if (mongoc_cursor_next(cursor, &row)) {
        struct text owner = mongo_schema_get_text(row, "owner");
        int64_t until = mongo_schema_get_date(row, "until");

        if (until != lease->other_until ||
            strncmp(lease->other, owner.data ? owner.data : "", sizeof(lease->other) - 1) != 0)
            lease->other_since_ms = clock_monotonic_ms();
        lease->other_until = until;
        snprintf(lease->other, sizeof(lease->other), "%.*s", (int)owner.length, owner.data ? owner.data : "");
    } else {
        lease->other[0] = '\0';
    }
    ok = !mongoc_cursor_error(cursor, step->error);
    mongoc_cursor_destroy(cursor);
    bson_destroy(&filter);
    return ok;
}

/* Renews it, or takes one that is nobody's, or one that nobody has touched for long enough. */
static bool acquire(struct step *step, struct mongo_lease *lease)
{
    bool mine;

    if (!touch(step, lease->owner, 0, lease->owner, &mine) || mine)
        return mine;
    if (!make(step, lease->owner, &mine) || mine || !watch(step, lease))
        return mine;
    if (lease->other[0] && clock_monotonic_ms() - lease->other_since_ms >= lease->ms &&
        (!touch(step, lease->other, lease->other_until, lease->owner, &mine) || mine))
        return mine;
    mongo_error_set(step->error, MONGO_ERROR_LEASE,
                    "another host serves this database (%.160s); several hosts need redis", lease->other);
    return false;
}

bool mongo_lease_hold(struct mongo_lease *lease, mongoc_client_t *client, const char *database,
                      bson_error_t *error)
{
    int64_t now_ms = clock_monotonic_ms();
    struct step step = {.lease = lease, .error = error};
    bool mine;

    if (lease->renewed_ms != 0 && now_ms - lease->renewed_ms < lease->renew_ms)
        return true;
    step.leases = mongoc_client_get_collection(client, database, MONGO_LEASES);
    mine = acquire(&step, lease);
    mongoc_collection_destroy(step.leases);
    /* Counted from before it was asked for. */
    lease->renewed_ms = mine ? now_ms : 0;
    return mine;
}

bool mongo_lease_release(struct mongo_lease *lease, mongoc_client_t *client, const char *database,
                         bson_error_t *error)
{
    mongoc_collection_t *leases;
    bson_t filter = BSON_INITIALIZER;
    bool ok;

    BSON_APPEND_UTF8(&filter, "_id", lease->id);
    BSON_APPEND_UTF8(&filter, "owner", lease->owner);
    leases = mongoc_client_get_collection(client, database, MONGO_LEASES);
    ok = mongoc_collection_delete_one(leases, &filter, NULL, NULL, error);
    mongoc_collection_destroy(leases);
    bson_destroy(&filter);
    lease->renewed_ms = 0;
    return ok;
}
