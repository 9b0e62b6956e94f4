/* redis_keys.c - see redis_keys.h */
#include "redis_keys.h"

#define SCRIPTS(X) \
    X(publish) X(open) X(peek) X(window) X(enter) X(leave) X(members) X(rooms) X(beat) X(pending) X(purge) \
    X(forget)

#define DECLARE(name) extern const char script_##name[], script_##name##_end[];
SCRIPTS(DECLARE)

struct redis_script *redis_scripts(void)
{
    /* The program's own text and what follows from it: the same in all processes, whoever asks first. */
    static struct redis_script scripts[SCRIPT_COUNT + 1];
    int count = 0;

    if (scripts[0].source)
        return scripts;
#define FILL(name) \
    scripts[count++] = \
        (struct redis_script){script_##name, (size_t)(script_##name##_end - script_##name), ""};
    /* cppcheck-suppress comparePointers ; the two ends of an embedded file are two objects to C */
    SCRIPTS(FILL)
    for (int i = 0; i < count; i++)
        redis_script_init(&scripts[i]);
    return scripts;
}

void redis_key(struct buf *out, unsigned partition, const char *kind, struct text name)
{
    buf_add_literal(out, "chatd:{");
    buf_add_u64(out, partition);
    buf_add_literal(out, "}:");
    buf_add_string(out, kind);
    if (name.length > 0) {
        buf_add_literal(out, ":");
        buf_add(out, name.data, name.length);
    }
}
