/* proto.h - JSON text to command, and answers to JSON text: the only reader of client JSON (jansson behind
 * it).
 *
 * The wire contract is src/PROTOCOL.md. Parsing checks shape and kind of each member a command knows
 * (bad_json, bad_request, unknown_type); what the values mean (names, limits, rights) is judged by those
 * who carry the command out. Unknown members are ignored. Encoding writes straight into a buffer: an
 * event's bytes are made once, by the publisher's worker. */
#ifndef CHATD_PROTO_H
#define CHATD_PROTO_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/buf.h"
#include "chatd/message.h"

struct json_t;

enum { PROTO_ID_MAX = 1024 }; /* bytes of an id as JSON */

enum command_type {
    COMMAND_HELLO,
    COMMAND_JOIN,
    COMMAND_MESSAGE,
    COMMAND_TYPING,
    COMMAND_HISTORY,
    COMMAND_MEMBERS,
    COMMAND_ROOMS,
    COMMAND_LEAVE,
    COMMAND_REFRESH,
    COMMAND_PING,
};

/* Texts are borrowed from `json` until proto_free; a member that was not given has data NULL. */
struct command {
    enum command_type type;
    struct text id; /* as JSON, ready to be written back; data NULL without one */
    struct text user, session, token, room, text, key;
    bool has_since, has_recent;
    bool retry, on;
    uint64_t since, recent, before, limit; /* before and limit: UINT64_MAX when not given */
    struct json_t *json;
    char *id_text;
};

/* Why a command is refused. `code` is one of the words of PROTOCOL.md. */
struct refusal {
    const char *code;
    char message[160];
};

/* False: *refusal is filled, and command->id if there was a usable one. proto_free is called in both
 * cases. */
bool proto_parse(const char *text, size_t length, struct command *command, struct refusal *refusal)
    __attribute__((warn_unused_result));
void proto_free(struct command *command);

/* Appends `{"type":"<type>","id":<id>` (the id only if there is one); the caller goes on with members and
 * `}`. */
void proto_begin(struct buf *buf, const char *type, struct text id);

/* Appends `,"name":"text"`. */
void proto_member(struct buf *buf, const char *name, struct text text);
void proto_number(struct buf *buf, const char *name, uint64_t number);

/* An error answer, whole. retry_ms 0: none. */
void proto_error(struct buf *buf, struct text id, const char *code, const char *message, int64_t retry_ms);

/* The bytes of a message event before its number and after its time (bus_publish). */
void proto_message_head(struct buf *buf, struct text room);
void proto_message_tail(struct buf *buf, struct text user, struct text text, struct text key);

/* The `time` (ms) in a message's event; 0 when it has none. */
int64_t proto_message_time(struct text event);

#endif
