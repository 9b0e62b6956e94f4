/* mongo_spool_format.h - how a message lies in a spool file. By the machine's own byte order: a file is
 * read where it was written. */
#ifndef CHATD_MONGO_SPOOL_FORMAT_H
#define CHATD_MONGO_SPOOL_FORMAT_H

#include "chatd/buf.h"
#include "chatd/message.h"

#define MONGO_SPOOL_SUFFIX ".spool"
#define MONGO_SPOOL_MAGIC "chatd spool 1\n"

enum { MONGO_SPOOL_RECORD_MAX = 16 * 1024 * 1024 };

/* In front of each record. */
struct mongo_spool_head {
    uint32_t length;   /* of the record */
    uint32_t reserved; /* 0 */
    uint64_t checksum; /* of the record; hash_bytes */
};

/* The record: this, then room, user, key and event. */
struct mongo_spool_record {
    uint64_t seq, previous;
    int64_t time_ms;
    uint64_t position;
    uint32_t room, user, key, event; /* lengths */
    uint8_t uid[MESSAGE_UID_SIZE];
};

void mongo_spool_encode(const struct message *message, struct buf *out); /* head and record */

/* The message points into `record`. False when the lengths don't fit. */
bool mongo_spool_decode(const char *record, size_t length, struct message *message)
    __attribute__((warn_unused_result));

#endif
