// A client of chatd's wire protocol (src/PROTOCOL.md) for browsers. It owns one connection and what is known
// of each joined room, and keeps both right across lost connections; it knows nothing of the page.
//
//     const client = new ChatClient({ url: 'ws://127.0.0.1:5000/ws', user: 'ana' });
//     client.on('messages', (room, list, kind) => …);    // kind: recent, missed, live, older
//     client.connect();
//     client.join('general');
//     client.send('general', 'hello');
//
// Events: state(state, detail) · messages(room, list, kind) · placed(room, message) · ack(room, message) ·
// failed(room, message) · held(room, error) · joined(room) · refused(room, error) · reset(room) ·
// typing(room, event) · presence(room, event) · error(error).
// States: connecting, online, waiting (detail: ms until the next attempt), refused (detail: why), closed.

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 30000;
const STABLE_MS = 5000;        // a connection that lived this long starts the backoff anew
const QUIET_MS = 25000;        // silence after which the server is asked for a sign of life
const PONG_MS = 10000;
const WATCH_MS = 5000;
const UNASKED = 'unasked';     // id of commands whose refusal nobody needs to see
const CLOSE_ABUSE = 1008;
const CLOSE_UNAUTHORIZED = 4401;

export class ChatError extends Error {
    constructor(code, message, retryMs) {
        super(message || code);
        this.code = code;
        this.retryMs = retryMs;
    }
}

class Room {
    constructor(name) {
        this.name = name;
        this.joined = false;
        this.syncing = false;    // a join is on its way: its answer holds what arrives meanwhile
        this.outbox = [];        // own messages without their ack, in order of writing
        this.holdUntil = 0;      // the server asked for patience until then
        this.count = 0;
        this.filling = 0;        // which catch-up is the latest
        this.forget();
    }

    forget() {
        this.messages = [];      // rising by seq
        this.last = null;        // highest number seen; null before the first join
        this.hole = null;        // everything up to this number is here; above it a catch-up is unfinished
        this.more = false;       // older messages can be asked for
        this.seqs = new Set();
        this.keys = new Set();
        for (const message of this.outbox) message.seq = 0;
    }
}

const pause = ms => new Promise(resolve => setTimeout(resolve, ms));
const identity = message => JSON.stringify([message.user, message.key]);

// crypto.randomUUID is missing on pages that came over plain http from another host.
function newKey() {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
}

export class ChatClient {
    constructor({ url, user, recent = 50 }) {
        Object.assign(this, { url, user, recent });
        this.rooms = new Map();
        this.limits = { text: 4096, history: 100 };
        this.state = 'closed';
        this.handlers = {};
        this.socket = null;
        this.waiting = new Map();    // id of a command -> who waits for its answer
        this.nextId = 1;
        this.attempt = 0;
        this.onlineSince = 0;
        this.reconnectAt = 0;        // the time the server gave us with `reconnect`
    }

    on(event, handler) {
        (this.handlers[event] ||= []).push(handler);
        return this;
    }

    emit(event, ...details) {
        for (const handler of this.handlers[event] || []) handler(...details);
    }

    // ---- connection ----

    connect() {
        clearTimeout(this.retryTimer);
        clearInterval(this.watchTimer);
        const socket = this.socket = new WebSocket(this.url, 'chatd.v1');
        this.pingedAt = 0;
        this.heardAt = Date.now();
        socket.onopen = () => this.hello();
        socket.onmessage = event => this.socket === socket && this.receive(JSON.parse(event.data));
        socket.onclose = event => this.socket === socket && this.lost(event.code, event.reason);
        this.watchTimer = setInterval(() => this.watch(), WATCH_MS);
        this.setState('connecting');
    }

    close() {
        this.setState('closed');
        this.socket?.close(1000);
        this.lost();
    }

    // Something outside changed (the network is back, the page is looked at): don't wait for the timers.
    nudge() {
        if (this.state === 'waiting') this.connect();
        else if (this.state === 'online') this.ping();
    }

    setState(state, detail) {
        this.state = state;
        this.emit('state', state, detail);
    }

    async hello() {
        try {
            const welcome = await this.askUntilTaken({ type: 'hello', user: this.user });
            this.user = welcome.user;
            Object.assign(this.limits, welcome.limits);
            this.onlineSince = Date.now();
            this.setState('online');
            for (const room of this.rooms.values()) this.sync(room);
        } catch (error) {
            if (error.code === 'disconnected') return;
            this.setState('refused', error.message);
            this.socket?.close(1000);
        }
    }

    ping() {
        this.pingedAt = Date.now();
        this.ask({ type: 'ping' }).catch(() => {});
    }

    // A half-open connection gives no event of its own. Timers of a hidden page run late, so what counts is
    // whether anything was heard since the ping, not how long ago something was.
    watch() {
        const now = Date.now();
        if (this.pingedAt > this.heardAt || this.state === 'connecting') {
            if (now - Math.max(this.pingedAt, this.heardAt) > PONG_MS) this.drop();
        } else if (this.state === 'online' && now - this.heardAt > QUIET_MS) {
            this.ping();
        }
    }

    // Gives the connection up without waiting for a close handshake that may never end.
    drop() {
        const socket = this.socket;
        this.lost();
        socket?.close();
    }

    lost(code, reason) {
        clearInterval(this.watchTimer);
        clearTimeout(this.drainTimer);
        clearTimeout(this.retryTimer);
        this.socket = null;
        const waiting = [...this.waiting.values()];
        this.waiting.clear();
        for (const { reject } of waiting) reject(new ChatError('disconnected', 'the connection was lost'));
        for (const room of this.rooms.values()) room.joined = room.syncing = false;
        if (this.state === 'closed' || this.state === 'refused') return;
        if (code === CLOSE_ABUSE || code === CLOSE_UNAUTHORIZED) {
            this.setState('refused', reason || 'The server closed this connection.');
            return;
        }
        if (this.onlineSince && Date.now() - this.onlineSince > STABLE_MS) this.attempt = 0;
        this.onlineSince = 0;
        // Full jitter: a thousand pages that lost one server must not come back in one moment.
        const delay = this.reconnectAt ? Math.max(0, this.reconnectAt - Date.now())
            : Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.attempt++);
        this.reconnectAt = 0;
        this.retryTimer = setTimeout(() => this.connect(), delay);
        this.setState('waiting', delay);
    }

    // ---- commands and answers ----

    command(object) {
        if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(object));
    }

    ask(object) {
        return new Promise((resolve, reject) => {
            if (this.socket?.readyState !== WebSocket.OPEN) {
                reject(new ChatError('disconnected', 'not connected'));
                return;
            }
            const id = this.nextId++;
            this.waiting.set(id, { resolve, reject });
            this.command({ ...object, id });
        });
    }

    // As ask, for what may simply be asked again when the server wants patience.
    async askUntilTaken(object) {
        for (const socket = this.socket; ;) {
            try {
                return await this.ask(object);
            } catch (error) {
                if (!error.retryMs) throw error;
                await pause(error.retryMs * (1 + Math.random() / 4));
                if (socket !== this.socket) throw new ChatError('disconnected', 'the connection was lost');
            }
        }
    }

    receive(event) {
        this.heardAt = Date.now();
        const waiter = this.waiting.get(event.id);
        const room = this.rooms.get(event.room);
        if (waiter) {
            this.waiting.delete(event.id);
            if (event.type !== 'error') waiter.resolve(event);
            else waiter.reject(new ChatError(event.code, event.message, event.retry_ms));
        } else if (event.type === 'message' && room) {
            this.receiveMessage(room, event);
        } else if (event.type === 'presence' && room) {
            room.count = event.members;
            this.emit('presence', room, event);
        } else if (event.type === 'typing' && room) {
            this.emit('typing', room, event);
        } else if (event.type === 'reconnect') {
            this.reconnectAt = Date.now() + event.after_ms;
            this.drainTimer = setTimeout(() => this.drop(), event.after_ms);
        } else if (event.type === 'error' && event.id !== UNASKED) {
            this.emit('error', new ChatError(event.code, event.message, event.retry_ms));
        }
    }

    // ---- rooms ----

    join(name) {
        if (!this.rooms.has(name)) {
            this.rooms.set(name, new Room(name));
            if (this.state === 'online') this.sync(this.rooms.get(name));
        }
        return this.rooms.get(name);
    }

    leave(name) {
        this.rooms.delete(name);
        this.command({ type: 'leave', room: name, id: UNASKED });
    }

    listRooms() {
        return this.askUntilTaken({ type: 'rooms' });
    }

    listMembers(name) {
        return this.askUntilTaken({ type: 'members', room: name });
    }

    typing(name, on) {
        this.command({ type: 'typing', room: name, on, id: UNASKED });
    }

    // Joins, or joins again from the last number known, and fetches whatever that leaves out.
    async sync(room) {
        if (room.syncing) return;
        room.syncing = true;
        const since = room.hole ?? room.last;
        const from = since === null ? { recent: this.recent } : { since };
        let answer;
        try {
            answer = await this.askUntilTaken({ type: 'join', room: room.name, ...from });
        } catch (error) {
            if (error.code === 'disconnected') return;
            room.syncing = false;
            this.rooms.delete(room.name);
            this.emit('refused', room, error);
            return;
        }
        room.syncing = false;
        if (this.rooms.get(room.name) !== room) return;
        if (since !== null && answer.seq < room.last) {
            room.forget();
            this.emit('reset', room);
            this.sync(room);
            return;
        }
        room.joined = true;
        room.last = answer.seq;
        room.count = answer.members;
        if (since === null) room.more = !answer.complete || answer.messages.length >= this.recent;
        this.take(room, answer.messages, since === null ? 'recent' : 'missed');
        this.emit('joined', room);
        this.flush(room);
        if (since !== null) this.fill(room, since, answer);
    }

    // An incomplete answer may lack its oldest messages or one in its middle that was not stored yet, so
    // history is read from the top. The hole stays noted until all is here, should the connection be lost.
    async fill(room, since, answer) {
        const run = ++room.filling;
        room.hole = answer.complete ? null : since;
        let before = answer.seq + 1;
        while (room.hole !== null) {
            let page;
            try {
                page = await this.askUntilTaken(
                    { type: 'history', room: room.name, before, limit: this.limits.history });
            } catch {
                return;
            }
            if (run !== room.filling) return;
            this.take(room, page.messages.filter(message => message.seq > since), 'missed');
            before = page.messages[0]?.seq ?? 0;
            if (!page.more || before <= since + 1) room.hole = null;
        }
    }

    async loadOlder(name) {
        const room = this.rooms.get(name);
        if (!room?.joined || !room.more || room.loading) return;
        room.loading = true;
        try {
            const before = room.messages[0]?.seq;
            const page = await this.askUntilTaken(
                { type: 'history', room: name, before, limit: this.limits.history });
            room.more = page.more;
            this.take(room, page.messages, 'older');
        } catch (error) {
            if (error.code !== 'disconnected') this.emit('error', error);
        } finally {
            room.loading = false;
        }
    }

    // Lets go of the oldest messages of a room that has been open for long; history brings them back.
    trim(room, keep) {
        const gone = room.messages.splice(0, Math.max(0, room.messages.length - keep));
        for (const message of gone) {
            room.seqs.delete(message.seq);
            if (message.key) room.keys.delete(identity(message));
        }
        if (gone.length) room.more = true;
        return gone;
    }

    // ---- messages ----

    receiveMessage(room, event) {
        if (room.syncing || event.seq <= room.last) return;
        if (event.seq !== room.last + 1) {
            this.sync(room);
            return;
        }
        room.last = event.seq;
        this.take(room, [event], 'live');
    }

    // Keeps what is new of a list. After a failover one message may have two numbers: (user, key) tells.
    take(room, list, kind) {
        const fresh = [];
        for (const { seq, user, text, time, key } of list) {
            const message = { seq, user, text, time, key };
            const own = user === this.user && room.outbox.find(sent => sent.key === key);
            if (room.seqs.has(seq) || (own && own.seq)) continue;
            if (own) {
                own.time = time;
                this.place(room, own, seq);
                this.emit('placed', room, own);
                this.flush(room);
            } else if (!key || !room.keys.has(identity(message))) {
                this.place(room, message, seq);
                fresh.push(message);
            }
        }
        this.emit('messages', room, fresh, kind);
    }

    // Most messages are the newest, so the search for their place starts at the end.
    place(room, message, seq) {
        const old = message.seq && room.messages.indexOf(message);
        if (message.seq && old >= 0) room.messages.splice(old, 1);
        let at = room.messages.length;
        while (at > 0 && room.messages[at - 1].seq > seq) at--;
        message.seq = seq;
        room.messages.splice(at, 0, message);
        room.seqs.add(seq);
        if (message.key) room.keys.add(identity(message));
    }

    send(name, text) {
        const room = this.rooms.get(name);
        const message = { user: this.user, text, key: newKey(), time: Date.now(), seq: 0, pending: true };
        room.outbox.push(message);
        this.emit('messages', room, [message], 'live');
        this.flush(room);
    }

    // A message leaves when the one before it is known to be taken, by its number or its ack: were they sent
    // together and only the first refused, the second would overtake it.
    flush(room) {
        if (!room.joined || Date.now() < room.holdUntil) return;
        for (const message of room.outbox.filter(({ failed }) => !failed)) {
            if (!message.inFlight) this.submit(room, message);
            if (!message.seq) return;
        }
    }

    async submit(room, message) {
        const again = message.unsure ? { retry: true } : {};
        message.inFlight = true;
        try {
            const { text, key } = message;
            const ack = await this.ask({ type: 'message', room: room.name, text, key, ...again });
            room.outbox.splice(room.outbox.indexOf(message), 1);
            message.pending = false;
            if (ack.seq !== message.seq) this.place(room, message, ack.seq);
            this.emit('ack', room, message);
            this.flush(room);
        } catch (error) {
            message.inFlight = false;
            // It may have been taken without our hearing of it: from now on it is sent as a retry.
            if (error.code === 'disconnected' || error.code === 'unavailable') message.unsure = true;
            if (error.code === 'disconnected') return;
            if (error.code === 'not_joined') error.retryMs = 1000;
            if (error.retryMs) this.hold(room, error);
            else this.fail(room, message, error);
        }
    }

    // It stays in the outbox for its writer to see, and never goes out again.
    fail(room, message, error) {
        Object.assign(message, { pending: false, failed: error.message });
        this.emit('failed', room, message);
        this.flush(room);
    }

    // All of a room's messages wait together, for the same reason.
    hold(room, error) {
        room.holdUntil = Date.now() + error.retryMs;
        setTimeout(() => {
            if (error.code === 'not_joined' && this.state === 'online') this.sync(room);
            else this.flush(room);
        }, error.retryMs + 20);
        this.emit('held', room, error);
    }
}
