/* hash.h - a hash of bytes for tables and for noticing damage; no protection against who means to collide. */
#ifndef CHATD_HASH_H
#define CHATD_HASH_H

#include <stddef.h>
#include <stdint.h>

/* FNV-1a, 64 bits. */
static inline uint64_t hash_bytes(const void *data, size_t length)
{
    const uint8_t *bytes = data;
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < length; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

#endif
