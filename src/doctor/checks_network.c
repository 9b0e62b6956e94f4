/* checks_network.c - what the kernel's network code holds. */
#include "checks_table.h"

#include <stdio.h>

/* A storm: everybody comes back within STORM_SECONDS after an interruption, and a worker may be busy for a
 * second before it accepts again. */
enum { STORM_SECONDS = 10 };

static const char PORTS_WIDE[] = "1024 65535";
enum { PORTS_WIDE_COUNT = 65535 - 1024 + 1 };

bool checks_tcp_memory(const struct checks_input *in, struct finding *out)
{
    const struct facts *facts = in->facts;
    int64_t each = 2 * CHECKS_PAGE, pages;
    char value[96];

    if (facts->tcp_pages == FACTS_UNKNOWN)
        return checks_unknown(out);
    if (facts->tcp_read_min > 0 && facts->tcp_write_min > 0)
        each = facts->tcp_read_min + facts->tcp_write_min;
    pages = (each + CHECKS_PAGE - 1) / CHECKS_PAGE;
    out->holds = facts->tcp_pages / pages;
    checks_say(out->value, "%lld pages", (long long)facts->tcp_pages);
    checks_say(out->reason,
               "socket buffers of the host; %lld pages a connection with a message waiting each way, beyond "
               "that the "
               "kernel drops",
               (long long)pages);
    pages *= in->wanted;
    snprintf(value, sizeof(value), "%lld %lld %lld", (long long)(pages / 2), (long long)(pages / 4 * 3),
             (long long)pages);
    checks_sysctl(out, "net.ipv4.tcp_mem", value);
    return true;
}

bool checks_ports(const struct checks_input *in, struct finding *out)
{
    const struct facts *facts = in->facts;
    int64_t ports = facts->port_high - facts->port_low + 1 - facts->ports_reserved;

    if (in->sources == 0)
        return false;
    if (facts->port_low == FACTS_UNKNOWN || facts->port_high == FACTS_UNKNOWN)
        return checks_unknown(out);
    out->holds = checks_clamp(ports) * in->sources;
    checks_say(out->value, "%lld to %lld, %lld source address%s", (long long)facts->port_low,
               (long long)facts->port_high, (long long)in->sources, in->sources == 1 ? "" : "es");
    checks_say(
        out->reason, "%lld ports x addresses: the proxy's connections to one address and port of chatd%s",
        (long long)checks_clamp(ports), in->proxy_here ? "" : "; the proxy's own host must have as many");
    if (in->wanted > PORTS_WIDE_COUNT * in->sources) {
        checks_say(out->now,
                   "sysctl -w net.ipv4.ip_local_port_range=\"%s\"; proxy_bind over %lld addresses (-a %lld)",
                   PORTS_WIDE, (long long)(in->wanted / PORTS_WIDE_COUNT + 1),
                   (long long)(in->wanted / PORTS_WIDE_COUNT + 1));
        checks_say(out->keep,
                   "/etc/sysctl.d/99-chatd.conf: net.ipv4.ip_local_port_range = %s; nginx: split_clients",
                   PORTS_WIDE);
    } else {
        checks_sysctl(out, "net.ipv4.ip_local_port_range", PORTS_WIDE);
    }
    return true;
}

bool checks_per_address(const struct checks_input *in, struct finding *out)
{
    long long limit = (long long)in->config->max_connections_per_ip;

    if (limit == 0)
        return false;
    checks_say(out->value, "%lld", limit);
    if (in->sources == 0) {
        checks_say(out->reason,
                   "for each client's address; behind a proxy (-a) all clients have the proxy's");
        return true;
    }
    out->holds = limit * in->sources;
    checks_say(out->reason, "%lld x %lld addresses of the proxy, which is all that chatd sees of clients",
               limit, (long long)in->sources);
    checks_set(out, "max_connections_per_ip = 0 and send HUP; limit_conn in nginx does the same");
    checks_say(out->keep, "chat.conf: max_connections_per_ip = 0");
    return true;
}

bool checks_conntrack(const struct checks_input *in, struct finding *out)
{
    const struct facts *facts = in->facts;
    int64_t used = facts->conntrack_count > 0 ? facts->conntrack_count : 0;
    int64_t each = in->proxy_here ? 2 : 1;

    if (facts->conntrack_max == FACTS_UNKNOWN)
        return false; /* not loaded */
    out->holds = checks_clamp(facts->conntrack_max - used) / each;
    checks_say(out->value, "%lld, %lld in use", (long long)facts->conntrack_max, (long long)used);
    checks_say(out->reason,
               "the firewall's table: %lld of it for each connection%s; a full one drops new ones",
               (long long)each, in->proxy_here ? " (both sides of the proxy)" : "");
    checks_sysctl_number(out, "net.netfilter.nf_conntrack_max", in->wanted * each + used);
    return true;
}

/* A queue of its own for each of `queues` holds what comes in a second of a storm. Stops nobody for good:
 * advice. */
static bool check_storm(const struct checks_input *in, struct finding *out, int64_t length, int64_t queues,
                        const char *key, const char *what)
{
    int64_t needed = in->wanted / STORM_SECONDS / queues + 1;

    if (length == FACTS_UNKNOWN)
        return checks_unknown(out);
    checks_say(out->value, "%lld", (long long)length);
    checks_say(out->reason, "%s; a storm of %lld in %d s brings %lld a second to each of %lld", what,
               (long long)in->wanted, STORM_SECONDS, (long long)needed, (long long)queues);
    if (length >= needed)
        return true;
    out->verdict = CHECKS_ADVICE;
    checks_sysctl_number(out, key, needed > 65535 ? needed : 65535);
    return true;
}

bool checks_somaxconn(const struct checks_input *in, struct finding *out)
{
    return check_storm(in, out, in->facts->somaxconn, in->workers, "net.core.somaxconn",
                       "connections that wait for a worker to accept them");
}

bool checks_syn_backlog(const struct checks_input *in, struct finding *out)
{
    return check_storm(in, out, in->facts->syn_backlog, in->workers, "net.ipv4.tcp_max_syn_backlog",
                       "handshakes that wait for their third packet");
}

bool checks_device_backlog(const struct checks_input *in, struct finding *out)
{
    int64_t cores = in->facts->cores > 0 ? in->facts->cores : 1;

    return check_storm(in, out, in->facts->device_backlog, cores, "net.core.netdev_max_backlog",
                       "packets that wait for a core");
}
