// What the flows of load-test.yml call: chatd's users (protocol.js) as artillery's virtual users. Engine `ws` opens the
// first connection of each and sees none of its messages; everything it could not do itself is a `function` step.

'use strict';

const { randomBytes } = require('node:crypto');
const { ChatUser } = require('./protocol.js');

const RUN = randomBytes(4).toString('hex');  // one per thread of artillery, and with it names and rooms
const WORDS = 'lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore';

// Each user counts them all, with 0 too: a check on a counter that never came would fail.
const VERDICTS = ['lost', 'undelivered', 'doubled', 'out_of_order', 'gaps', 'resets', 'unacknowledged', 'failed', 'checked'];

const reached = new Map();
let users = 0;

// The target as artillery was given it: a chatd's address, with or without the path.
function begin(wsArgs, context, done) {
    const url = new URL(wsArgs.target);
    url.protocol = url.protocol.replace('http', 'ws');
    if (url.pathname === '/') url.pathname = '/ws';
    wsArgs.target = url.href;
    wsArgs.subprotocols = ['chatd.v1'];
    context.wsArgs = wsArgs;
    context.url = url.href;
    context.startedAt = performance.now();
    done();
}

async function hello(context, ee) {
    const socket = context.ws;
    // Engine `ws` would take an error of this connection for one of connecting and end the flow a second time.
    socket.removeAllListeners('error');
    for (const what of VERDICTS) ee.emit('counter', `chatd.${what}`, 0);
    context.vars.number = users++;
    context.user = new ChatUser({
        name: `lt-${RUN}-${context.vars.number}`,
        open: () => new socket.constructor(context.url, ['chatd.v1'], { handshakeTimeout: 10000 }),
        report: (what, value) => report(ee, what, value),
        reached,
    });
    ee.emit('histogram', 'chatd.connect_ms', performance.now() - context.startedAt);
    await guarded(context, user => user.start(socket));
    ee.emit('histogram', 'chatd.welcome_ms', performance.now() - context.startedAt);
}

function report(ee, what, value) {
    if (what.endsWith('_ms')) {
        ee.emit('histogram', `chatd.${what}`, value);
    } else if (value instanceof Error) {
        ee.emit('counter', `chatd.${what}`, 1);
        ee.emit('error', value.message);
    } else {
        ee.emit('counter', `chatd.${what}`, value ?? 1);
    }
}

// A user whose flow ends with an error leaves no timers and no connection behind.
async function guarded(context, step) {
    try {
        await step(context.user);
    } catch (error) {
        context.user.close();
        throw error;
    }
}

// Users are dealt out to `rooms` rooms, so a room's size follows from how many are there at a time.
async function join(context) {
    const { rooms, number } = context.vars;
    context.vars.room = `lt-${RUN}-${number % rooms}`;
    await guarded(context, user => user.join(context.vars.room));
}

async function say(context) {
    context.user.say(context.vars.room, WORDS);
}

async function typingOn(context) {
    context.user.typing(context.vars.room, true);
}

async function typingOff(context) {
    context.user.typing(context.vars.room, false);
}

async function loseConnection(context) {
    context.user.drop();
}

async function finish(context) {
    await guarded(context, user => user.finish());
}

module.exports = { begin, hello, join, say, typingOn, typingOff, loseConnection, finish };
