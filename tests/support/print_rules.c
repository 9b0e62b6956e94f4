/* print_rules.c - what `make deploy/prometheus/chatd.rules.yml` writes: the rules of the built-in
 * defaults. */
#include "chatd/rules.h"

int main(void)
{
    static struct config config;

    config_defaults(&config);
    rules_print(&config, stdout);
    return 0;
}
