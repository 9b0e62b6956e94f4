/*
 * The files of src/web/ inside the program, byte for byte: asset_X is the first byte of a file, asset_X_end the one
 * behind its last. Who serves them declares `extern const char asset_X[], asset_X_end[];`. The Makefile builds this
 * file again when one of them changes.
 */
        .section .rodata

        .macro asset name, path
        .global asset_\name, asset_\name\()_end
        .hidden asset_\name, asset_\name\()_end
        .type asset_\name, %object
        .balign 16
asset_\name:
        .incbin "web/\path"
asset_\name\()_end:
        .size asset_\name, . - asset_\name
        .endm

        asset index_html, "index.html"
        asset chat_css, "chat.css"
        asset chat_js, "chat.js"
        asset client_js, "client.js"

        .section .note.GNU-stack, "", %progbits
