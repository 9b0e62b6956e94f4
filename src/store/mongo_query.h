/* mongo_query.h - how each question that store_reader.h knows is answered from MongoDB. Readers' threads. */
#ifndef CHATD_MONGO_QUERY_H
#define CHATD_MONGO_QUERY_H

#include "mongo_link.h"
#include "store_reader.h"

struct mongo_query {
    struct mongo_link *link;
    /* What is added to a room's highest number: without Redis, numbers that an earlier ring gave and
     * nobody stored may lie up to one block above what is stored. A ring asks once in its life for each
     * room, so each time another block is right. */
    uint64_t block;
};

/* store_source's answer, with a struct mongo_query for its argument; there is no connection to keep. */
int mongo_query_answer(void *arg, void **connection, struct store_request *request,
                       char error[RING_ERROR_MAX]);
void mongo_query_close(void *connection);

#endif
