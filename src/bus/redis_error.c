/* redis_error.c - errors by their names. */
#include "redis_error.h"

#include <string.h>

static const struct {
    const char *code;
    enum redis_fault fault;
} fault_codes[] = {
    {"LOADING", REDIS_FAULT_LOADING},       {"READONLY", REDIS_FAULT_READONLY},
    {"MASTERDOWN", REDIS_FAULT_MASTERDOWN}, {"NOSCRIPT", REDIS_FAULT_NOSCRIPT},
    {"NOAUTH", REDIS_FAULT_AUTH},
};

const char *redis_fault_word(enum redis_fault fault)
{
    static const char *const words[] = {
        [REDIS_FAULT_CONNECT] = "unreachable",    [REDIS_FAULT_CLOSED] = "closed",
        [REDIS_FAULT_SILENT] = "silent",          [REDIS_FAULT_PROTOCOL] = "protocol",
        [REDIS_FAULT_LIFE] = "other_life",        [REDIS_FAULT_READONLY] = "read_only",
        [REDIS_FAULT_MASTERDOWN] = "master_down", [REDIS_FAULT_LOADING] = "loading",
        [REDIS_FAULT_AUTH] = "wrong_password",    [REDIS_FAULT_NOSCRIPT] = "no_scripts",
        [REDIS_FAULT_REFUSED] = "refused",        [REDIS_FAULT_TLS] = "tls",
    };

    return words[fault];
}

const char *redis_error_code(const redisReply *reply)
{
    const char *raised;

    if (reply->type != REDIS_REPLY_ERROR)
        return "";
    /* Redis 6 wraps what a call in a script raised: "ERR Error running script (...): @user_script:2: -OOM
     * ..." */
    raised = strncmp(reply->str, "ERR Error ", 10) == 0 ? strstr(reply->str, ": -") : NULL;
    return raised ? raised + 3 : reply->str;
}

bool redis_error_is(const redisReply *reply, const char *code)
{
    const char *error = redis_error_code(reply);
    size_t length = strlen(code);

    return strncmp(error, code, length) == 0 && (error[length] == ' ' || error[length] == '\0');
}

bool redis_error_fault(const redisReply *reply, enum redis_fault *fault)
{
    for (size_t i = 0; i < sizeof(fault_codes) / sizeof(fault_codes[0]); i++) {
        if (redis_error_is(reply, fault_codes[i].code)) {
            *fault = fault_codes[i].fault;
            return true;
        }
    }
    return false;
}
