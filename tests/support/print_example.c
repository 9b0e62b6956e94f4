/* print_example.c - what `make chat.conf.example` writes: the settings table as a commented file. */
#include "chatd/config.h"

int main(void)
{
    config_print_example(stdout);
    return 0;
}
