/* config_parse.c - the settings file, line by line, and the collection of all that is wrong. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "config_row.h"

enum {
    SHOWN_MAX = (CONFIG_SHOWN_MAX - 4) / 4, /* bytes of a wrong key or value that an error repeats */
    ERROR_RESERVE = 48                      /* room for "and N more problems" */
};

#define KEY_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

struct config_problems config_problems_start(char *text)
{
    text[0] = '\0';
    return (struct config_problems){.text = text};
}

void config_problems_add(struct config_problems *problems, const char *format, ...)
{
    size_t room = CONFIG_ERROR_MAX - ERROR_RESERVE - problems->length;
    int length;
    va_list args;

    problems->count++;
    va_start(args, format);
    length = vsnprintf(problems->text + problems->length, room, format, args);
    va_end(args);
    if (length < 0 || (size_t)length + 1 >= room) {
        problems->text[problems->length] = '\0';
        problems->left_out++;
        return;
    }
    problems->length += (size_t)length;
    problems->text[problems->length++] = '\n';
    problems->text[problems->length] = '\0';
}

int config_problems_end(struct config_problems *problems)
{
    if (problems->count == 0)
        return 0;
    if (problems->left_out > 0)
        snprintf(problems->text + problems->length, ERROR_RESERVE, "and %u more problems",
                 problems->left_out);
    else
        problems->text[problems->length - 1] = '\0';
    return -EINVAL;
}

const char *config_shown(const char *text, char out[CONFIG_SHOWN_MAX])
{
    size_t at = 0, i;

    for (i = 0; i < SHOWN_MAX && text[i] != '\0'; i++) {
        unsigned char byte = (unsigned char)text[i];

        if (byte >= 0x20 && byte < 0x7f)
            out[at++] = (char)byte;
        else
            at += (size_t)sprintf(out + at, "\\x%02x", byte);
    }
    strcpy(out + at, text[i] != '\0' ? "..." : "");
    return out;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static void trim_end(char *text)
{
    size_t length = strlen(text);

    while (length > 0 && is_space(text[length - 1]))
        text[--length] = '\0';
}

static char *skip_space(char *text)
{
    while (is_space(*text))
        text++;
    return text;
}

/* Edit distance between two words, upper and lower case alike. Words are short: `b` at most 63 bytes. */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], length = strlen(b), diagonal;

    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 0; a[i] != '\0'; i++) {
        diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < length; j++) {
            size_t above = row[j + 1];
            size_t best = diagonal + (strncasecmp(a + i, b + j, 1) != 0);

            best = best < above + 1 ? best : above + 1;
            row[j + 1] = best < row[j] + 1 ? best : row[j] + 1;
            diagonal = above;
        }
    }
    return row[length];
}

/* The key that was probably meant (its environment name counts as well), NULL when none is near. */
static const char *nearest_key(const char *key)
{
    size_t best = strlen(key) / 3 + 1;
    const char *nearest = NULL;

    for (int i = 0; i < CONFIG_COUNT; i++) {
        size_t by_key = distance(key, config_rows[i].key);
        size_t by_env = distance(key, config_rows[i].env);
        size_t near = by_key < by_env ? by_key : by_env;

        if (near < best || (near == best && nearest == NULL)) {
            best = near;
            nearest = config_rows[i].key;
        }
    }
    return nearest;
}

static int find_key(const char *key)
{
    for (int i = 0; i < CONFIG_COUNT; i++) {
        if (strcmp(config_rows[i].key, key) == 0)
            return i;
    }
    return -1;
}

/* One file on its way through the parser. */
struct parser {
    struct config *config;
    const char *name;
    struct config_problems *problems;
    size_t line;
    size_t seen[CONFIG_COUNT]; /* line that set it, 0 if none did */
};

/* Ends the value at its comment and takes the quotes off, in place. NULL when a quoted value goes wrong. */
static char *read_value(char *text)
{
    char *value = text, *out = text;

    if (*text != '"') {
        for (; *text != '\0' && !(*text == '#' && (text == value || is_space(text[-1]))); text++)
            continue;
        *text = '\0';
        trim_end(value);
        return value;
    }
    for (text++; *text != '"'; text++) {
        if (*text == '\\' && (text[1] == '"' || text[1] == '\\'))
            text++;
        else if (*text == '\\' || *text == '\0')
            return NULL;
        *out++ = *text;
    }
    text++;
    if (*text != '\0' && !is_space(*text))
        return NULL;
    text = skip_space(text);
    *out = '\0';
    return *text == '\0' || *text == '#' ? value : NULL;
}

static void set_from_file(struct parser *parser, int index, const char *value)
{
    char shown_value[CONFIG_SHOWN_MAX], wrong[CONFIG_WRONG_MAX];

    config_shown_value((enum config_index)index, value, shown_value);
    if (parser->seen[index] != 0) {
        config_problems_add(parser->problems, "%s:%zu: %s = %s: is set twice, first in line %zu",
                            parser->name, parser->line, config_rows[index].key, shown_value,
                            parser->seen[index]);
        return;
    }
    parser->seen[index] = parser->line;
    if (!config_value_parse(parser->config, (enum config_index)index, value, wrong)) {
        config_problems_add(parser->problems, "%s:%zu: %s = %s: %s", parser->name, parser->line,
                            config_rows[index].key, shown_value, wrong);
        return;
    }
    parser->config->origin[index] = (uint16_t)(parser->line < UINT16_MAX - 1 ? parser->line + 1 : UINT16_MAX);
}

/* What looks like no key may be a secret's other half, and what an unknown key was given is one often enough:
 * neither is repeated. */
static void refuse_key(struct parser *parser, const char *key, bool has_value)
{
    bool is_word = key[0] != '\0' && strlen(key) <= SHOWN_MAX && key[strspn(key, KEY_LETTERS)] == '\0';
    const char *nearest = is_word ? nearest_key(key) : NULL;

    if (is_word && has_value)
        config_problems_add(parser->problems, "%s:%zu: %s: unknown key%s%s%s", parser->name,
                            parser->line, key, nearest ? "; did you mean `" : "", nearest ? nearest : "",
                            nearest ? "`?" : ", chatd -t prints all that are known");
    else
        config_problems_add(parser->problems, "%s:%zu: %s%smust be `key = value`", parser->name, parser->line,
                            nearest ? key : "", nearest ? ": " : "");
}

static void parse_line(struct parser *parser, char *line)
{
    char shown_value[CONFIG_SHOWN_MAX];
    char *key = skip_space(line), *equals, *value;
    int index;

    if (*key == '\0' || *key == '#')
        return;
    equals = strchr(key, '=');
    if (equals)
        *equals = '\0';
    trim_end(key);
    index = find_key(key);
    if (!equals || index < 0) {
        refuse_key(parser, key, equals != NULL);
        return;
    }
    value = skip_space(equals + 1);
    config_shown_value((enum config_index)index, value, shown_value);
    value = read_value(value);
    if (value == NULL)
        config_problems_add(
            parser->problems,
            "%s:%zu: %s = %s: a quoted value must end with its quote, with only \\\" and \\\\ escaped inside",
            parser->name, parser->line, key, shown_value);
    else
        set_from_file(parser, index, value);
}

void config_parse_text(struct config *config, const char *name, const char *text, size_t length,
                       struct config_problems *problems)
{
    struct parser parser = {.config = config, .name = name, .problems = problems};
    const char *end = length > 0 ? text + length : text; /* no text at all may be NULL */
    char line[CONFIG_LINE_MAX + 1];

    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3; /* the byte order mark some editors write */
    while (text < end) {
        const char *next = memchr(text, '\n', (size_t)(end - text));
        size_t size = (size_t)((next != NULL ? next : end) - text);

        parser.line++;
        if (size > CONFIG_LINE_MAX) {
            config_problems_add(problems, "%s:%zu: a line must be at most %d bytes", name, parser.line,
                                CONFIG_LINE_MAX);
        } else if (memchr(text, '\0', size) != NULL) {
            config_problems_add(problems, "%s:%zu: contains a NUL byte", name, parser.line);
        } else {
            memcpy(line, text, size);
            line[size] = '\0';
            parse_line(&parser, line);
        }
        text = next != NULL ? next + 1 : end;
    }
}

int config_parse(struct config *config, const char *name, const char *text, size_t length,
                 char error[CONFIG_ERROR_MAX])
{
    struct config_problems problems = config_problems_start(error);

    config_parse_text(config, name, text, length, &problems);
    return config_problems_end(&problems);
}
