/* names.h - which names of users and rooms are allowed (PROTOCOL.md, "Names"). Pure; any thread.
 *
 * A name is 1 to MESSAGE_USER_MAX or MESSAGE_ROOM_MAX bytes of valid UTF-8 (RFC 3629): Unicode letters, marks
 * and decimal digits (general categories L*, M*, Nd), `-_.:@`, and single U+0020 between them. Names are
 * compared byte by byte and never changed: what looks alike, or is the same in another normal form, is
 * another name. Joiners (U+200C, U+200D) are format characters and emoji are symbols: both are refused. */
#ifndef CHATD_NAMES_H
#define CHATD_NAMES_H

#include <stdbool.h>
#include <stddef.h>

/* `text` need not be terminated; a NUL in it is refused like every control character. */
bool name_user_valid(const char *text, size_t length) __attribute__((warn_unused_result));
bool name_room_valid(const char *text, size_t length) __attribute__((warn_unused_result));

/* Whether text that comes from elsewhere (a library's error, a file name) may go into JSON. Empty text is
 * valid. */
bool text_valid_utf8(const char *text, size_t length) __attribute__((warn_unused_result));

#endif
