/* print_man.c - what `make deploy/man/chat.conf.5` writes: the settings table as a manual page, in mdoc(7).
 */
#include <stdio.h>
#include <string.h>

#include "base/config_row.h"

/* A line of text: what roff would take for its own is escaped. A sentence begins a line of its own (mdoc's
 * rule). */
static void put(const char *text)
{
    bool start = true, first = true;

    for (; *text; text++) {
        if (start && (*text == '.' || *text == '\''))
            fputs("\\&", stdout);
        start = text[0] == ' ' && !first && text[-1] == '.';
        first = false;
        if (start) {
            putchar('\n');
            continue;
        }
        switch (*text) {
        case '\\':
            fputs("\\e", stdout);
            break;
        case '-':
            fputs("\\-", stdout);
            break;
        case '~':
            fputs("\\(ti", stdout);
            break;
        case '^':
            fputs("\\(ha", stdout);
            break;
        case '`':
        case '\'':
            fputs(*text == '`' ? "\\(ga" : "\\(aq", stdout);
            break;
        default:
            putchar(*text);
            break;
        }
    }
}

/* A macro's argument that may hold blanks and quotes. */
static void put_argument(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"')
            fputs("\\(dq", stdout);
        else if (*text == '\\')
            fputs("\\e", stdout);
        else
            putchar(*text);
    }
    putchar('"');
}

static void put_setting(const struct config *defaults, int index)
{
    const struct config_row *row = &config_rows[index];
    char allowed[CONFIG_ALLOWED_MAX], value[CONFIG_VALUE_MAX];

    config_value_allowed(index, allowed);
    config_value_format(defaults, index, value);
    printf(".It Ic %s No = ", row->key);
    if (value[0])
        put_argument(value);
    else
        fputs("(empty)", stdout);
    putchar('\n');
    put(row->help);
    fputs(".\n.br\nAllowed: ", stdout);
    put(allowed);
    printf("; environment\n.Ev %s", row->env);
    fputs(row->reload ? " .\n" : " ;\nneeds a restart.\n", stdout);
}

int main(void)
{
    struct config defaults;
    bool open = false;

    config_defaults(&defaults);
    fputs(".\\\" Made from include/chatd/config.def by `make deploy/man/chat.conf.5`.\n"
          ".Dd November 22, 2026\n.Dt CHAT.CONF 5\n.Os\n"
          ".Sh NAME\n.Nm chat.conf\n.Nd settings of the chat server chatd\n"
          ".Sh DESCRIPTION\n"
          ".Xr chatd 8\nreads the file that its option\n.Fl c\nnames.\n"
          "A line is\n.Ql key = value .\n"
          "A\n.Ql #\nstarts a comment, at the start of a line or after a blank.\n"
          "A value may stand in double quotes, with \\e\\(dq and \\e\\e in them.\n"
          "A key that is not known, a value that is not allowed and a key twice are errors:\n"
          "chatd doesn\\(aqt start, and says in which line.\n"
          ".Pp\n"
          "The environment variable named with a setting wins over the file.\n"
          "After\n.Dv SIGHUP\nchatd reads both again; settings that need a restart keep their value.\n"
          ".Pp\n"
          "Sizes take K, M and G (powers of 1024), times ms, s, m, h and d (s when there is none).\n"
          "What stands behind each key here is its value when nobody says otherwise.\n",
          stdout);
    for (size_t i = 0; i < config_item_count; i++) {
        if (!config_items[i].heading) {
            put_setting(&defaults, config_items[i].index);
            continue;
        }
        if (open)
            fputs(".El\n", stdout);
        printf(".Ss %s\n.Bl -tag -width Ds\n", config_items[i].heading);
        open = true;
    }
    fputs(".El\n"
          ".Sh FILES\n.Bl -tag -width Ds\n.It Pa /etc/chatd/chat.conf\nwhat the service reads\n.El\n"
          ".Sh SEE ALSO\n.Xr chatd 8\n",
          stdout);
    return ferror(stdout) ? 1 : 0;
}
