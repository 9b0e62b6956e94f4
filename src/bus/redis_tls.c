/* redis_tls.c - TLS for hiredis, or the word that there is none. */
#include "redis_tls.h"

#include <stdio.h>

#if defined(__has_include)
#if __has_include(<hiredis/hiredis_ssl.h>) && __has_include(<openssl/ssl.h>)
#define HAVE_TLS 1
#endif
#endif

#ifdef HAVE_TLS

#include <arpa/inet.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>

struct redis_tls {
    SSL_CTX *authorities;
    SSL *session; /* the context's */
};

bool redis_tls_available(void)
{
    return true;
}

/* hiredis' own contexts compare no names. */
static bool expect_host(SSL *session, const char *host)
{
    struct in6_addr address;

    if (host[0] == '/' || inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1)
        return host[0] == '/' || X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session), host) == 1;
    return SSL_set1_host(session, host) == 1 && SSL_set_tlsext_host_name(session, host) == 1;
}

struct redis_tls *redis_tls_start(redisContext *context, const char *host, char *error, size_t size)
{
    struct redis_tls *tls = calloc(1, sizeof(*tls));

    if (!tls)
        abort();
    tls->authorities = SSL_CTX_new(TLS_client_method());
    if (!tls->authorities || SSL_CTX_set_default_verify_paths(tls->authorities) != 1)
        goto fail;
    SSL_CTX_set_min_proto_version(tls->authorities, TLS1_2_VERSION);
    SSL_CTX_set_verify(tls->authorities, SSL_VERIFY_PEER, NULL);
    tls->session = SSL_new(tls->authorities);
    if (!tls->session || !expect_host(tls->session, host))
        goto fail;
    if (redisInitiateSSL(context, tls->session) == REDIS_OK)
        return tls;
fail:
    snprintf(error, size, "%s",
             context->err ? context->errstr : ERR_reason_error_string(ERR_peek_last_error()));
    SSL_free(tls->session);
    redis_tls_free(tls);
    return NULL;
}

void redis_tls_free(struct redis_tls *tls)
{
    if (tls)
        SSL_CTX_free(tls->authorities);
    free(tls);
}

const char *redis_tls_error(const struct redis_tls *tls)
{
    long result = tls ? SSL_get_verify_result(tls->session) : X509_V_OK;

    return result == X509_V_OK ? NULL : X509_verify_cert_error_string(result);
}

bool redis_tls_wants_read(const struct redis_tls *tls)
{
    return tls && SSL_want_read(tls->session);
}

#else

bool redis_tls_available(void)
{
    return false;
}

struct redis_tls *redis_tls_start(redisContext *context, const char *host, char *error, size_t size)
{
    (void)context;
    (void)host;
    snprintf(error, size, "built without TLS");
    return NULL;
}

void redis_tls_free(struct redis_tls *tls)
{
    (void)tls;
}

const char *redis_tls_error(const struct redis_tls *tls)
{
    (void)tls;
    return NULL;
}

bool redis_tls_wants_read(const struct redis_tls *tls)
{
    (void)tls;
    return false;
}

#endif
