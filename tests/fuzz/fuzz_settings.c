/* Settings files: anything is settings or errors, and settings that were printed mean the same when read
 * again. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char error[CONFIG_ERROR_MAX];
    struct config config, again;
    char *text;
    size_t length;
    FILE *out;

    config_defaults(&config);
    if (config_parse(&config, "fuzz", (const char *)data, size, error) != 0) {
        if (error[0] == '\0' || strlen(error) >= CONFIG_ERROR_MAX)
            abort();
        return 0;
    }
    out = open_memstream(&text, &length);
    if (out == NULL)
        abort();
    config_print(&config, out);
    fclose(out);
    config_defaults(&again);
    if (config_parse(&again, "again", text, length, error) != 0)
        abort();
    if (again.mode != config.mode || again.port != config.port || again.workers != config.workers ||
        again.send_queue_bytes != config.send_queue_bytes || again.session_ttl != config.session_ttl ||
        strcmp(again.log_file, config.log_file) != 0 ||
        again.message_rate_limit.count != config.message_rate_limit.count)
        abort();
    if (config.message_rate_limit.count > 0 &&
        again.message_rate_limit.per_ms != config.message_rate_limit.per_ms)
        abort();
    free(text);
    return 0;
}
