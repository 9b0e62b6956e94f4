/* conn_log.c - what the log hears of a connection, and how loud.
 *
 * Coming and going is for level debug: there may be thousands a second. What a peer did wrong is for info,
 * and a warning when somebody seems to mean it. HTTP connections without an upgrade are only told of when
 * refused. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "chatd/log.h"
#include "internal.h"

enum { PEER_SIZE = INET6_ADDRSTRLEN + 16 };

/* As `address:port`; `-` when the peer is gone already. IPv4 in IPv6 is shown as IPv4. */
static void format_peer(const struct conn *conn, char text[PEER_SIZE])
{
    struct sockaddr_storage address;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address;
    char host[INET6_ADDRSTRLEN];

    snprintf(text, PEER_SIZE, "-");
    if (!conn_peer(conn, &address))
        return;
    if (address.ss_family == AF_INET && inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host)) != NULL)
        snprintf(text, PEER_SIZE, "%s:%u", host, ntohs(v4->sin_port));
    else if (address.ss_family != AF_INET6)
        return;
    else if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) &&
             inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], host, sizeof(host)) != NULL)
        snprintf(text, PEER_SIZE, "%s:%u", host, ntohs(v6->sin6_port));
    else if (inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host)) != NULL)
        snprintf(text, PEER_SIZE, "[%s]:%u", host, ntohs(v6->sin6_port));
}

void conn_log_opened(const struct conn *conn)
{
    char id[CONN_ID_SIZE], peer[PEER_SIZE];

    if (!log_wants(LOG_DEBUG))
        return;
    conn_id_text(conn->id, id);
    format_peer(conn, peer);
    log_debug("connection_opened", "connection=%s peer=%s", id, peer);
}

static enum log_level level_of(enum close_reason reason)
{
    switch (reason) {
    case CLOSE_ABUSE:
        return LOG_WARN;
    case CLOSE_SLOW:
    case CLOSE_PROTOCOL:
    case CLOSE_BINARY:
    case CLOSE_UTF8:
    case CLOSE_TOO_LARGE:
        return LOG_INFO;
    default:
        return LOG_DEBUG;
    }
}

void conn_log_closed(const struct conn *conn, enum close_reason reason, unsigned code)
{
    enum log_level level = level_of(reason);
    char id[CONN_ID_SIZE], peer[PEER_SIZE];

    if (!log_wants(level))
        return;
    conn_id_text(conn->id, id);
    format_peer(conn, peer);
    log_event(level, "connection_closed", "connection=%s peer=%s reason=%s code=%u duration_s=%u messages=%u",
              id, peer, close_reason_word(reason), code, net_seconds(conn->net) - conn->opened_s,
              conn->messages);
}

/* Who is turned away for what it asked too often is worth a line; who asked for nonsense is noise from
 * outside. */
void conn_log_refused(const struct conn *conn, int status, const char *code)
{
    enum log_level level = status == 429 ? LOG_INFO : LOG_DEBUG;
    char id[CONN_ID_SIZE], peer[PEER_SIZE];

    if (!log_wants(level))
        return;
    conn_id_text(conn->id, id);
    format_peer(conn, peer);
    log_event(level, "connection_refused", "connection=%s peer=%s reason=%s status=%d", id, peer, code,
              status);
}
