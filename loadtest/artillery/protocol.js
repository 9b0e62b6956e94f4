// One user of chatd's wire protocol (src/PROTOCOL.md) who checks what he gets: each room's numbers rise one by one, what
// was acknowledged arrives and stands in history once, under the number that its ack named. Knows nothing of artillery.
//
//     const user = new ChatUser({ name: 'ana', open: () => new WebSocket(url, 'chatd.v1'), report, reached: new Map() });
//     await user.start(openSocket);
//     await user.join('general');
//     user.say('general', 'hello');
//     await user.finish();              // waits for what is under way, checks, leaves
//
// `report(what, value)` hears of everything worth a figure; a duration's name ends in _ms. `reached` (room -> highest
// number that any user had acknowledged) is shared by all users of a process: finish() waits until it has seen them.

'use strict';

const { performance } = require('node:perf_hooks');
const { setTimeout: pause } = require('node:timers/promises');

const BACKOFF_BASE_MS = 200;
const BACKOFF_CAP_MS = 5000;
const ANSWER_MS = 20000;       // an answer that takes longer is taken for lost, and the connection with it
const FINISH_MS = 20000;       // what has not come this long after a user's last word is missing
const POLL_MS = 20;
const PAGE = 100;

// Wall clock with a fraction: what one thread stamps, another may read.
const now = () => performance.timeOrigin + performance.now();

class ChatError extends Error {
    constructor(code, message, retryMs) {
        super(`${code}: ${message}`);
        this.code = code;
        this.retryMs = retryMs;
    }
}

// The next connection makes up for what a lost one left undone.
function passLoss(error) {
    if (error.code !== 'disconnected') throw error;
}

class Room {
    constructor(name) {
        this.name = name;
        this.joined = false;
        this.syncing = false;      // a join is on its way: its answer holds what arrives meanwhile
        this.last = null;          // highest number seen; null before the first join
        this.seen = new Map();     // user and key of a message -> its number
        this.unsettled = new Map();  // key -> own message without its ack
        this.acked = new Map();    // key -> the number that its ack named
    }
}

class ChatUser {
    constructor({ name, open, report, reached }) {
        Object.assign(this, { name, open, report, reached });
        this.rooms = new Map();
        this.waiting = new Map();  // id of a command -> who waits for its answer
        this.nextId = 1;
        this.nextKey = 1;
        this.attempt = 0;
        this.lostAt = 0;
        this.ended = false;
    }

    // ---- connection ----

    // Takes over a socket that is open already.
    async start(socket) {
        this.take(socket);
        await this.greet().catch(passLoss);
    }

    take(socket) {
        this.socket = socket;
        socket.onmessage = event => socket === this.socket && this.receive(JSON.parse(event.data));
        socket.onclose = event => socket === this.socket && this.lost(event.code);
        // No close event has to follow: Node 20's own WebSocket leaves it out when it could not connect.
        socket.onerror = () => socket === this.socket && this.lost('error');
    }

    async greet() {
        const welcome = await this.askUntilTaken({ type: 'hello', user: this.name, session: this.session });
        this.session = welcome.session;
        this.attempt = 0;
        if (!this.lostAt) return;
        this.report(welcome.resumed ? 'resumed' : 'not_resumed');
        await Promise.all([...this.rooms.values()].map(room => this.sync(room)));
        this.report('back_ms', now() - this.lostAt);
        this.lostAt = 0;
    }

    lost(code) {
        this.socket = null;
        clearTimeout(this.leaveTimer);
        const waiting = [...this.waiting.values()];
        this.waiting.clear();
        for (const { reject } of waiting) reject(new ChatError('disconnected', `close code ${code}`));
        for (const room of this.rooms.values()) room.joined = room.syncing = false;
        if (this.ended) return;
        this.report('disconnects');
        this.lostAt ||= now();
        // Full jitter, or the moment the server gave with `reconnect`: users of one lost server don't return as one.
        const delay = this.returnAt ? Math.max(0, this.returnAt - now())
            : Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.attempt++);
        this.returnAt = 0;
        this.retryTimer = setTimeout(() => this.reconnect(), delay);
    }

    reconnect() {
        this.take(this.open());
        this.socket.onopen = () => this.greet().catch(passLoss).catch(error => this.report('failed', error));
    }

    // Gives the connection up, as a dead network would: without a close handshake where the socket can do that.
    drop() {
        const socket = this.socket;
        if (!socket) return;
        this.lost('dropped');
        if (socket.terminate) socket.terminate();
        else socket.close();
    }

    close() {
        this.ended = true;
        clearTimeout(this.retryTimer);
        clearTimeout(this.leaveTimer);
        this.socket?.close(1000);
    }

    // ---- commands and answers ----

    tell(command) {
        if (this.socket?.readyState === 1) this.socket.send(JSON.stringify(command));
    }

    // `take` sees the answer before whatever came right behind it is looked at.
    ask(command, take = () => {}) {
        return new Promise((resolve, reject) => {
            if (this.socket?.readyState !== 1) {
                reject(new ChatError('disconnected', 'not connected'));
                return;
            }
            const id = this.nextId++;
            const timer = setTimeout(() => this.waiting.has(id) && this.drop(), ANSWER_MS);
            this.waiting.set(id, {
                resolve: answer => { clearTimeout(timer); take(answer); resolve(answer); },
                reject: error => { clearTimeout(timer); reject(error); },
            });
            this.tell({ ...command, id });
        });
    }

    // As ask, for what may simply be asked again when the server wants patience.
    async askUntilTaken(command, take) {
        for (const socket = this.socket; ;) {
            try {
                return await this.ask(command, take);
            } catch (error) {
                if (!error.retryMs) throw error;
                await pause(error.retryMs * (1 + Math.random() / 4));
                if (socket !== this.socket) throw new ChatError('disconnected', 'the connection was lost');
            }
        }
    }

    receive(event) {
        const waiter = this.waiting.get(event.id);
        const room = this.rooms.get(event.room);
        if (waiter) {
            this.waiting.delete(event.id);
            if (event.type !== 'error') {
                waiter.resolve(event);
            } else {
                if (event.retry_ms) this.report('put_off');
                waiter.reject(new ChatError(event.code, event.message, event.retry_ms));
            }
        } else if (event.type === 'message' && room) {
            this.receiveMessage(room, event);
        } else if (event.type === 'presence' || event.type === 'typing') {
            this.report(event.type);
        } else if (event.type === 'reconnect') {
            this.returnAt = now() + event.after_ms;
            this.leaveTimer = setTimeout(() => this.drop(), event.after_ms);
        } else if (event.type === 'error') {
            this.report('failed', new ChatError(event.code, event.message));
        }
    }

    // ---- rooms ----

    async join(name) {
        const room = new Room(name);
        this.rooms.set(name, room);
        await this.sync(room).catch(passLoss);
    }

    // Joins, or joins again from the last number seen, and sends again what has no ack.
    async sync(room) {
        if (room.syncing) return;
        const since = room.last;
        room.syncing = true;
        const from = since === null ? {} : { since };
        const answer = await this.askUntilTaken({ type: 'join', room: room.name, ...from },
            joined => this.enter(room, joined, since));
        if (since !== null && !answer.complete) await this.fill(room, since, answer);
        for (const message of room.unsettled.values()) if (!message.underWay) this.submit(room, message);
    }

    enter(room, answer, since) {
        room.syncing = false;
        room.joined = true;
        if (since !== null && answer.seq < since) this.report('resets');
        for (const message of answer.messages) this.note(room, message, 'caught_up');
        room.last = answer.seq;
    }

    // An incomplete answer may lack messages anywhere, so history is read from the top.
    async fill(room, since, answer) {
        for await (const message of this.history(room, answer.seq + 1, since)) this.note(room, message, 'caught_up', true);
    }

    // Every message above `since` and below `before`, newest page first.
    async *history(room, before, since) {
        for (let more = true; more && before > since + 1;) {
            const page = await this.askUntilTaken({ type: 'history', room: room.name, before, limit: PAGE });
            yield* page.messages.filter(message => message.seq > since);
            before = page.messages[0]?.seq ?? 0;
            more = page.more;
        }
    }

    receiveMessage(room, event) {
        if (room.syncing) return;
        if (event.seq > room.last + 1) {
            this.report('gaps');
            this.sync(room).catch(passLoss);
            return;
        }
        this.report('delivery_ms', now() - parseFloat(event.text));
        this.note(room, event, 'received');
        if (event.seq <= room.last) this.report('out_of_order');
        else room.last = event.seq;
    }

    // `known`: whether this message may have been seen before under this number.
    note(room, message, how, known = false) {
        const identity = `${message.user} ${message.key}`;
        const seq = room.seen.get(identity);
        if (seq === undefined) this.report(how);
        else if (!known || seq !== message.seq) this.report('doubled');
        room.seen.set(identity, message.seq);
    }

    // ---- own messages ----

    say(name, words) {
        const room = this.rooms.get(name);
        const message = { key: `${this.nextKey++}`, words, sentAt: 0, retried: false, underWay: false };
        room.unsettled.set(message.key, message);
        this.report('said');
        if (room.joined) this.submit(room, message);
    }

    // The text begins with the time it was first sent, which is what `delivery_ms` counts from.
    async submit(room, message) {
        const { key, words } = message;
        message.underWay = true;
        message.retried = message.sentAt > 0;
        message.sentAt ||= now();
        try {
            const text = `${message.sentAt.toFixed(3)} ${words}`;
            const again = message.retried ? { retry: true } : {};
            await this.askUntilTaken({ type: 'message', room: room.name, text, key, ...again },
                ack => this.settle(room, message, ack));
        } catch (error) {
            if (error.code === 'disconnected') return;  // the next connection sends it again
            room.unsettled.delete(key);
            this.report('failed', error);
        } finally {
            message.underWay = false;
        }
    }

    settle(room, message, ack) {
        room.unsettled.delete(message.key);
        room.acked.set(message.key, ack.seq);
        this.reached.set(room.name, Math.max(ack.seq, this.reached.get(room.name) || 0));
        this.report(message.retried ? 'retry_ack_ms' : 'ack_ms', now() - message.sentAt);
    }

    typing(name, on) {
        this.tell({ type: 'typing', room: name, on });
    }

    // ---- the end ----

    async finish(patienceMs = FINISH_MS) {
        const end = now() + patienceMs;
        const until = async check => { while (!check() && now() < end) await pause(POLL_MS); };
        const rooms = [...this.rooms.values()];
        await until(() => rooms.every(room => room.joined && !room.unsettled.size));
        const goals = rooms.map(room => [room, this.reached.get(room.name) || 0]);
        await until(() => goals.every(([room, goal]) => room.last >= goal));
        for (const [room, goal] of goals) {
            if (room.unsettled.size) this.report('unacknowledged', room.unsettled.size);
            if (room.last < goal) this.report('undelivered', goal - room.last);
            await this.checkHistory(room);
        }
        this.report('checked');
        this.close();
    }

    // What was acknowledged stands in history, once, under the number of its ack, and was delivered under it.
    async checkHistory(room) {
        if (!room.acked.size) return;
        const missing = new Map(room.acked);
        const oldest = Math.min(...missing.values());
        for await (const { user, key, seq } of this.history(room, room.last + 1, oldest - 1)) {
            if (user !== this.name) continue;
            if (missing.get(key) === seq) missing.delete(key);
            else this.report('doubled');
        }
        if (missing.size) this.report('lost', missing.size);
        for (const [key, seq] of room.acked) {
            if (room.seen.get(`${this.name} ${key}`) !== seq) this.report('undelivered');
        }
    }
}

module.exports = { ChatUser, ChatError };
