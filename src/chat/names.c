/* names.c - which names of users and rooms are allowed. The wall around ICU. */
#include "chatd/names.h"

#include <stdint.h>
#include <string.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include "chatd/message.h"

/* Most names are ASCII: they need no look into ICU's tables. */
static bool ascii_allowed(unsigned char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
           (byte != '\0' && strchr("-_.:@", byte) != NULL);
}

static bool name_valid(const char *text, size_t length, size_t max)
{
    bool spaced = true; /* a space may not follow here: at the start, and after another one */
    int32_t at = 0;

    if (length == 0 || length > max)
        return false;
    while (at < (int32_t)length) {
        UChar32 c;

        /* Negative for every kind of broken sequence: cut, overlong, surrogate, above U+10FFFF. */
        U8_NEXT(text, at, (int32_t)length, c);
        if (c == ' ') {
            if (spaced)
                return false;
            spaced = true;
            continue;
        }
        if (c < 0x80 ? c < 0 || !ascii_allowed((unsigned char)c)
                     : (U_GET_GC_MASK(c) & (U_GC_L_MASK | U_GC_M_MASK | U_GC_ND_MASK)) == 0)
            return false;
        spaced = false;
    }
    return !spaced;
}

bool name_user_valid(const char *text, size_t length)
{
    return name_valid(text, length, MESSAGE_USER_MAX);
}

bool name_room_valid(const char *text, size_t length)
{
    return name_valid(text, length, MESSAGE_ROOM_MAX);
}

bool text_valid_utf8(const char *text, size_t length)
{
    int32_t at = 0;
    UChar32 c = 0;

    if (length > INT32_MAX)
        return false;
    while (at < (int32_t)length && c >= 0)
        U8_NEXT(text, at, (int32_t)length, c);
    return c >= 0;
}
