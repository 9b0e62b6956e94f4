/* checks_table.h - private to the checks: their functions, and how they word what they found. */
#ifndef CHATD_DOCTOR_CHECKS_TABLE_H
#define CHATD_DOCTOR_CHECKS_TABLE_H

#include "checks.h"

/* Fills everything but name and verdict (which may be set to CHECKS_ADVICE). false: does not apply here. */
typedef bool (*checks_function)(const struct checks_input *in, struct finding *out);

bool checks_open_files(const struct checks_input *in, struct finding *out);
bool checks_nr_open(const struct checks_input *in, struct finding *out);
bool checks_file_max(const struct checks_input *in, struct finding *out);
bool checks_host_memory(const struct checks_input *in, struct finding *out);
bool checks_group_memory(const struct checks_input *in, struct finding *out);
bool checks_address_space(const struct checks_input *in, struct finding *out);
bool checks_tasks(const struct checks_input *in, struct finding *out);
bool checks_mappings(const struct checks_input *in, struct finding *out);
bool checks_cores(const struct checks_input *in, struct finding *out);

bool checks_tcp_memory(const struct checks_input *in, struct finding *out);
bool checks_ports(const struct checks_input *in, struct finding *out);
bool checks_per_address(const struct checks_input *in, struct finding *out);
bool checks_conntrack(const struct checks_input *in, struct finding *out);
bool checks_somaxconn(const struct checks_input *in, struct finding *out);
bool checks_syn_backlog(const struct checks_input *in, struct finding *out);
bool checks_device_backlog(const struct checks_input *in, struct finding *out);

bool checks_shared_memory(const struct checks_input *in, struct finding *out);
bool checks_data_dir(const struct checks_input *in, struct finding *out);
bool checks_redis_host(const struct checks_input *in, struct finding *out);
bool checks_clock(const struct checks_input *in, struct finding *out);

void checks_say(char out[CHECKS_TEXT], const char *format, ...) __attribute__((format(printf, 2, 3)));

/* An advice that is a setting of chatd's, without the word `set`. */
void checks_set(struct finding *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The command and the line of a kernel setting. */
void checks_sysctl(struct finding *out, const char *key, const char *value);
void checks_sysctl_number(struct finding *out, const char *key, int64_t value);

/* What can't be read: true, so that the row says so. */
bool checks_unknown(struct finding *out);

int64_t checks_clamp(int64_t connections); /* no fewer than none */

#endif
