/* test_names.c - the alphabet of names, at its edges and in many scripts. */
#include "chatd/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chatd/message.h"

/* On the heap and not terminated, so that the address sanitizer sees a byte read too many. */
static bool valid(const char *text, size_t length, bool (*check)(const char *, size_t))
{
    char *copy = malloc(length + (length == 0));
    bool result;

    assert_non_null(copy);
    memcpy(copy, text, length);
    result = check(copy, length);
    free(copy);
    return result;
}

static void expect(const char *text, size_t length, bool expected)
{
    if (valid(text, length, name_user_valid) != expected || valid(text, length, name_room_valid) != expected)
        fail_msg("\"%.*s\" should %sbe a name", (int)length, text, expected ? "" : "not ");
}

static void expect_all(const char *const *names, bool expected)
{
    for (; *names != NULL; names++)
        expect(*names, strlen(*names), expected);
}

/* At least three bytes a letter in most; the last ones lie outside the basic plane. */
static const char *const allowed[] = {
    "a", "Z", "7", "-", "_", ".", ":", "@", "...", "ana", "ana@example.org", "team:ops-2_b",
    "Ana Maria Silva", "a b",
    "é", "e\xcc\x81", /* composed and decomposed */
    "Ærøskøbing", "Ωμέγα", "Привет мир", "Հայերեն",
    "שָׁלוֹם", "عَرَبِيّ",
    "हिन्दी", "தமிழ்", "ภาษาไทย", "ქართული",
    "አማርኛ", "ខ្មែរ",
    "中文 房间", "ひらがな", "カタカナー", "한국어", "ʻOkina", "ªº",
    "٠١٢٣", "०१२", "๔๒", "１２", /* decimal digits of other scripts */
    "𐐀𐐨", "𠮷野家", "𞤀𞤣𞤤𞤢𞤥", "𝟘",
    "\xcc\x81", /* a mark alone is a mark */
    NULL};

static const char *const refused[] = {
    " ", "  ", " a", "a ", "a  b", "- ", " -", "a b ", /* spaces: single, inside */
    "a\tb", "a\nb", "\r", "\x1b[31m", "\x7f", "\xc2\x85", /* controls */
    "a\xc2\xa0" "b", "a\xe3\x80\x80" "b", "a\xe2\x80\xaf" "b", "a\xe2\x80\xa8" "b", /* other white space */
    "#general", "a/b", "a\\b", "\"", "'", "<b>", "a,b", "a;b", "a+b", "a=b", "a&b", "a%20b", "$", "!",
    "?", "*", "(a)", "[a]", "{a}", "`", "~", "^", "|",
    "½", "²", "Ⅷ", "①", "𐄈", /* numbers that are no decimal digits */
    "☃", "😀", "👩‍💻", "€", "“a”", "a–b", "·", "\xef\xbc\xa0", /* symbols, punctuation */
    "a\xe2\x80\x8c" "b", "a\xe2\x80\x8d" "b", "a\xe2\x80\x8b" "b", /* joiners and other format characters */
    "\xe2\x80\xae" "ana", "\xef\xbb\xbf" "a", "a\xc2\xad" "b",
    "\xee\x80\x80", "\xf4\x8f\xbf\xbf", "\xcd\xb8", "\xef\xbf\xbe", "\xef\xbf\xbf", /* private, unassigned */
    "\xef\xbf\xbd",
    "\x80", "\xbf", "a\xff", "\xfe", /* stray */
    "\xc3", "a\xc3", "\xe4\xb8", "\xf0\xa0\xae", "\xc3(", "\xe4(\xad", /* cut */
    "\xc0\x80", "\xc1\xa1", "\xe0\x81\xa1", "\xf0\x80\x81\xa1", /* overlong */
    "\xed\xa0\x80", "\xed\xa1\x80\xed\xb0\x80", /* surrogates */
    "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", /* above U+10FFFF */
    NULL};

static void test_letters_marks_and_digits_of_many_scripts_are_names(void **state)
{
    (void)state;
    expect_all(allowed, true);
}

static void test_what_is_outside_the_alphabet_or_no_utf8_is_refused(void **state)
{
    (void)state;
    expect_all(refused, false);
    expect("", 0, false);
    expect("\0", 1, false);
    expect("a\0b", 3, false);
    expect("a\0", 2, false);
}

static void test_every_ascii_byte_is_judged_by_the_stated_alphabet(void **state)
{
    (void)state;
    for (int byte = 0; byte < 0x80; byte++) {
        char text[3] = {'x', (char)byte, 'x'};
        bool inside = byte != 0 && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789-_.:@", byte) != NULL;

        expect(text + 1, 1, inside);
        expect(text, 3, inside || byte == ' ');
    }
}

/* Refused things stay refused behind and before a good name. */
static void test_one_bad_character_anywhere_refuses_the_name(void **state)
{
    (void)state;
    for (size_t i = 0; refused[i] != NULL; i++) {
        size_t length = strlen(refused[i]);
        char text[64];

        if (refused[i][0] == ' ' || refused[i][length - 1] == ' ' || length > 24)
            continue;
        memcpy(text, "ana", 3);
        memcpy(text + 3, refused[i], length);
        memcpy(text + 3 + length, "ana", 3);
        expect(text, length + 6, false);
    }
}

static void test_length_is_counted_in_bytes(void **state)
{
    char text[MESSAGE_ROOM_MAX + 3];

    (void)state;
    memset(text, 'a', sizeof(text));
    assert_true(valid(text, MESSAGE_USER_MAX, name_user_valid));
    assert_false(valid(text, MESSAGE_USER_MAX + 1, name_user_valid));
    assert_true(valid(text, MESSAGE_ROOM_MAX, name_room_valid));
    assert_false(valid(text, MESSAGE_ROOM_MAX + 1, name_room_valid));
    assert_false(name_room_valid(text, SIZE_MAX));
    assert_false(name_room_valid(text, (size_t)UINT32_MAX + 2));
    for (size_t i = 0; i < MESSAGE_USER_MAX; i += 2)
        memcpy(text + i, "é", 2);
    assert_true(valid(text, MESSAGE_USER_MAX, name_user_valid));
    /* 63 bytes of letters and the first byte of one more: too long whole, broken when cut. */
    memmove(text + 1, text, MESSAGE_USER_MAX);
    text[0] = 'a';
    assert_false(valid(text, MESSAGE_USER_MAX, name_user_valid));
    assert_false(valid(text, MESSAGE_USER_MAX + 1, name_user_valid));
}

static bool at_character(const char *text, size_t length, size_t at)
{
    return at == length || ((unsigned char)text[at] & 0xc0) != 0x80;
}

/* A piece of a name is a name exactly when it is cut between characters and has no space at an end. */
static void test_names_cut_at_every_offset(void **state)
{
    (void)state;
    for (size_t i = 0; allowed[i] != NULL; i++) {
        const char *text = allowed[i];
        size_t length = strlen(text);

        for (size_t cut = 1; cut < length; cut++) {
            bool whole = at_character(text, length, cut);

            expect(text, cut, whole && text[cut - 1] != ' ');
            expect(text + cut, length - cut, whole && text[cut] != ' ');
        }
    }
}

/* Nothing to expect but that it ends and reads no byte too many. */
static void test_refused_text_cut_at_every_offset_is_read_within_bounds(void **state)
{
    (void)state;
    for (size_t i = 0; refused[i] != NULL; i++) {
        size_t length = strlen(refused[i]);

        for (size_t cut = 0; cut <= length; cut++) {
            (void)valid(refused[i], cut, name_user_valid);
            (void)valid(refused[i] + cut, length - cut, name_room_valid);
        }
    }
}

static void test_any_valid_utf8_is_valid_text(void **state)
{
    static const char *const broken[] = {"\x80", "a\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                         NULL};

    (void)state;
    assert_true(text_valid_utf8("", 0));
    assert_true(text_valid_utf8("a\0\n☃", 6));
    for (size_t i = 0; broken[i] != NULL; i++)
        assert_false(text_valid_utf8(broken[i], strlen(broken[i])));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_letters_marks_and_digits_of_many_scripts_are_names),
        cmocka_unit_test(test_what_is_outside_the_alphabet_or_no_utf8_is_refused),
        cmocka_unit_test(test_every_ascii_byte_is_judged_by_the_stated_alphabet),
        cmocka_unit_test(test_one_bad_character_anywhere_refuses_the_name),
        cmocka_unit_test(test_length_is_counted_in_bytes),
        cmocka_unit_test(test_names_cut_at_every_offset),
        cmocka_unit_test(test_refused_text_cut_at_every_offset_is_read_within_bounds),
        cmocka_unit_test(test_any_valid_utf8_is_valid_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
