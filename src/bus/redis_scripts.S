/*
 * The scripts of src/bus/scripts/ inside the program, as they are: script_X is the first byte of a file, script_X_end
 * the one behind its last. redis_keys.c makes the list of them. The Makefile builds this file again when one of them
 * changes.
 */
        .section .rodata

        .macro script name
        .global script_\name, script_\name\()_end
        .hidden script_\name, script_\name\()_end
        .type script_\name, %object
script_\name:
        .incbin "bus/scripts/\name\().lua"
script_\name\()_end:
        .size script_\name, . - script_\name
        .endm

        script publish
        script open
        script peek
        script window
        script enter
        script leave
        script members
        script rooms
        script beat
        script pending
        script purge
        script forget

        .section .note.GNU-stack, "", %progbits
