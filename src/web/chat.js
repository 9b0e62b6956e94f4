// The built-in chat page: draws what client.js knows. Texts of people reach the document by textContent only.

import { ChatClient } from './client.js';

const HOME = 'general';
const KEEP_SHOWN = 500;          // messages of a room kept while its end is looked at
const GROUP_MS = 5 * 60 * 1000;  // messages of one user closer than this stand under one name
const TYPING_EVERY_MS = 7000;    // the server allows ten a minute; what it refuses is simply not shown
const TYPING_SHOWN_MS = 10000;
const ROOMS_EVERY_MS = 20000;
const CROWD = 50;                // members above which their list may lag: coming and going is all there is
const CROWD_EVERY_MS = 10000;
const MEMBERS_EVERY_MS = 300;
const NOTICE_MS = 6000;
const HUES = 8;

const $ = id => document.getElementById(id);
const log = $('log');
const shown = new Map();     // message -> its element, of the current room
const unread = new Map();    // room -> count
const typists = new Map();   // room -> Map(user -> timer)
let client = null;
let current = null;          // the Room on show
let atEnd = true;
let typedAt = 0;

// ---- what is remembered: the name of this window, else the last one used here; the rooms of each name ----

function recall(key, store = localStorage) {
    try { return JSON.parse(store.getItem(`chatd.${key}`)); } catch { return null; }
}

function remember(key, value, store = localStorage) {
    try { store.setItem(`chatd.${key}`, JSON.stringify(value)); } catch { /* private window: not kept */ }
}

function rememberName(name) {
    remember('name', name, sessionStorage);
    remember('name', name);
}

const roomInAddress = () => {
    try { return decodeURIComponent(location.hash.slice(1)); } catch { return ''; }
};

// ---- sign in and out ----

function showSignin(error = '') {
    client?.close();
    client = current = null;
    $('app').hidden = true;
    $('signin').hidden = false;
    $('signin-error').textContent = error;
    $('name').select();
}

function start(name) {
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    client = new ChatClient({ url: `${scheme}://${location.host}/ws`, user: name });
    client.on('state', onState).on('messages', onMessages).on('placed', onPlaced).on('ack', onPlaced)
        .on('failed', onPlaced).on('joined', onJoined).on('refused', onRefused).on('presence', onPresence)
        .on('typing', onTyping).on('reset', room => room === current && draw())
        .on('held', (room, error) => say(`${error.message} – sending again in ${seconds(error.retryMs)}.`))
        .on('error', error => say(error.message));
    unread.clear();
    for (const room of recall(`rooms.${name}`) || []) client.join(room);
    $('signin-error').textContent = '';
    client.connect();
}

function onState(state, detail) {
    const words = { connecting: 'Connecting…', online: 'Online', refused: 'Refused', closed: 'Offline',
                    waiting: `Offline – next try in ${seconds(detail)}` };
    $('state').textContent = words[state];
    $('state').dataset.state = state;
    if (state === 'refused') showSignin(detail);
    if (state === 'waiting' && $('app').hidden) {
        $('signin').hidden = false;
        $('signin-error').textContent = `The server can't be reached – trying again in ${seconds(detail)}.`;
    }
    if (state === 'online' && $('app').hidden) enter();
    if (state === 'online') refreshRooms();
}

function enter() {
    rememberName(client.user);
    $('signin').hidden = true;
    $('app').hidden = false;
    $('me-name').textContent = client.user;
    paintAvatar($('me-avatar'), client.user);
    open(roomInAddress() || client.rooms.keys().next().value || HOME);
}

// ---- rooms ----

function open(name) {
    current = client.join(name);
    atEnd = true;
    typedAt = 0;
    unread.delete(name);
    if (roomInAddress() !== name) location.hash = encodeURIComponent(name);
    $('room-name').textContent = name;
    drawer(null);
    draw();
    drawRooms();
    drawTyping();
    if (current.joined) refreshMembers();
    refreshRooms();
    if (matchMedia('(hover: hover)').matches) $('text').focus();
}

function onJoined(room) {
    remember(`rooms.${client.user}`, [...client.rooms.keys()]);
    drawRooms();
    if (room === current) refreshMembers();
    if (room === current) drawEnds();
}

function onRefused(room, error) {
    say(`Can't join “${room.name}”: ${error.message}`);
    closeRoom(room.name);
}

function closeRoom(name) {
    client.leave(name);
    remember(`rooms.${client.user}`, [...client.rooms.keys()]);
    const next = client.rooms.keys().next().value || (name !== HOME && HOME);
    if (current.name === name && next) open(next);
    else drawRooms();
}

let listed = [];

async function refreshRooms() {
    try { listed = (await client.listRooms()).rooms; } catch { return; }
    drawRooms();
}

function drawRooms() {
    if (!client || !current) return;
    const mine = [...client.rooms.values()].map(room => ({ room: room.name, members: room.count }));
    const others = listed.filter(entry => !client.rooms.has(entry.room));
    $('mine').replaceChildren(...mine.map(roomEntry));
    $('others').replaceChildren(...others.map(roomEntry));
    $('others-title').hidden = !others.length;
    $('leave').hidden = mine.length < 2;
    $('show-members').textContent = current.count === 1 ? '1 member' : `${current.count} members`;
    $('members-title').textContent = `Members · ${current.count}`;
    const missed = [...unread.values()].reduce((sum, count) => sum + count, 0);
    document.title = `${missed ? `(${missed}) ` : ''}${current.name} · chatd`;
}

function roomEntry({ room, members }) {
    const button = element('button', 'room', element('span', 'room-name', room));
    const count = unread.get(room);
    if (count) button.append(element('span', 'badge', count > 99 ? '99+' : count));
    else if (members) button.append(element('span', 'count', members));
    button.type = 'button';
    if (count) button.setAttribute('aria-label', `${room}, ${count} unread`);
    if (room === current.name) button.setAttribute('aria-current', 'true');
    button.onclick = () => open(room);
    return element('li', '', button);
}

// ---- members, presence, typing ----

let membersTimer = 0;

function onPresence(room) {
    drawRooms();
    if (room !== current || membersTimer) return;
    const patience = room.count > CROWD ? CROWD_EVERY_MS * (1 + Math.random()) : MEMBERS_EVERY_MS;
    membersTimer = setTimeout(refreshMembers, patience);
}

async function refreshMembers() {
    const room = current;
    clearTimeout(membersTimer);
    membersTimer = 0;
    let answer;
    try { answer = await client.listMembers(room.name); } catch { return; }
    if (room !== current) return;
    room.count = answer.count;
    drawRooms();
    const users = answer.users.sort((one, other) => one.localeCompare(other));
    const rows = users.map(user =>
        element('li', 'member', paintAvatar(element('span', 'avatar'), user), element('span', '', user)));
    const more = answer.count - answer.users.length;
    if (more > 0) rows.push(element('li', 'member', `and ${more} more`));
    $('members-list').replaceChildren(...rows);
}

function onTyping(room, { user, on }) {
    if (!typists.has(room.name)) typists.set(room.name, new Map());
    const users = typists.get(room.name);
    clearTimeout(users.get(user));
    users.delete(user);
    if (on) users.set(user, setTimeout(() => onTyping(room, { user, on: false }), TYPING_SHOWN_MS));
    drawTyping();
}

function drawTyping() {
    const users = [...typists.get(current?.name)?.keys() || []].filter(user => user);
    const names = users.length > 3 ? 'Several people' : users.join(', ');
    $('typing').textContent = users.length ? `${names} ${users.length === 1 ? 'is' : 'are'} typing…` : '';
}

// ---- messages ----

function onMessages(room, list, kind) {
    for (const message of list) {
        if (kind === 'live' && typists.get(room.name)?.has(message.user)) {
            onTyping(room, { user: message.user, on: false });
        }
    }
    const isNews = kind === 'live' || kind === 'missed';
    const news = isNews ? list.filter(({ user }) => user !== client.user).length : 0;
    if (news && (room !== current || document.hidden)) {
        unread.set(room.name, (unread.get(room.name) || 0) + news);
        drawRooms();
    }
    if (room !== current) return;
    const height = log.scrollHeight;
    log.setAttribute('aria-busy', kind === 'recent' || kind === 'older');
    for (const message of list) insert(message);
    if (atEnd && kind === 'live') client.trim(room, KEEP_SHOWN).forEach(remove);
    if (kind === 'older') log.scrollTop += log.scrollHeight - height;
    else if (list.some(message => message.pending)) atEnd = true;
    drawEnds();
    $('newer').hidden = atEnd || (!news && $('newer').hidden);
}

function onPlaced(room, message) {
    if (room !== current) return;
    remove(message);
    insert(message);
    drawEnds();
}

function draw() {
    shown.clear();
    $('messages').replaceChildren();
    $('newer').hidden = true;
    log.setAttribute('aria-busy', 'true');
    for (const message of [...current.messages, ...current.outbox.filter(({ seq }) => !seq)]) insert(message);
    drawEnds();
}

function drawEnds() {
    $('older').hidden = !current.more;
    $('empty').hidden = !current.joined || shown.size > 0;
    if (atEnd) log.scrollTop = log.scrollHeight;
    requestAnimationFrame(() => log.setAttribute('aria-busy', 'false'));
}

// A message without a number yet stands at the end; one with a number before the next higher one.
function insert(message) {
    const list = current.messages;
    let at = message.seq ? list.lastIndexOf(message) + 1 : list.length;
    while (at < list.length && !shown.has(list[at])) at++;
    const next = list[at] || (message.seq ? current.outbox.find(sent => !sent.seq && shown.has(sent)) : null);
    const item = drawMessage(message);
    shown.set(message, item);
    $('messages').insertBefore(item, next ? shown.get(next) : null);
    group(item);
    group(item.nextElementSibling);
}

function remove(message) {
    const item = shown.get(message);
    const next = item?.nextElementSibling;
    shown.delete(message);
    item?.remove();
    group(next);
}

function group(item) {
    const before = item?.previousElementSibling;
    item?.classList.toggle('follows', Boolean(before) && before.dataset.user === item.dataset.user &&
        item.dataset.time - before.dataset.time < GROUP_MS);
}

function drawMessage(message) {
    const time = new Date(message.time);
    const today = time.toDateString() === new Date().toDateString();
    const stamp = element('time', '', time.toLocaleString([], {
        hour: '2-digit', minute: '2-digit', ...(today ? {} : { day: 'numeric', month: 'short' }) }));
    stamp.dateTime = time.toISOString();
    stamp.title = time.toLocaleString();
    const mark = message.failed ? element('p', 'error', `Not sent: ${message.failed}`)
        : message.pending ? element('span', 'unseen', 'sending') : '';
    const item = element('li', 'message', paintAvatar(element('span', 'avatar'), message.user),
        element('div', 'head', element('b', '', message.user), stamp),
        element('p', 'text', message.text), mark);
    item.classList.toggle('own', message.user === client.user);
    item.classList.toggle('pending', Boolean(message.pending));
    Object.assign(item.dataset, { user: message.user, time: message.time, seq: message.seq });
    return item;
}

// ---- helpers ----

function element(tag, className, ...children) {
    const node = document.createElement(tag);
    node.className = className;
    node.append(...children);
    return node;
}

function paintAvatar(node, user) {
    let hue = 0;
    for (const letter of user) hue = (hue * 31 + letter.codePointAt(0)) % 997;
    node.textContent = [...user][0].toUpperCase();
    node.className = `avatar hue-${hue % HUES}`;
    node.ariaHidden = 'true';
    return node;
}

const seconds = ms => `${Math.max(1, Math.ceil(ms / 1000))} s`;
let noticeTimer = 0;

function say(text) {
    clearTimeout(noticeTimer);
    noticeTimer = setTimeout(() => { $('notice').hidden = true; }, NOTICE_MS);
    $('notice').textContent = text;
    $('notice').hidden = false;
}

// On a narrow screen the lists are drawers, one open at a time.
function drawer(name) {
    for (const [list, button] of [['rooms', 'show-rooms'], ['members', 'show-members']]) {
        const isOpen = list === name && document.body.classList.toggle(`${list}-open`);
        if (list !== name) document.body.classList.remove(`${list}-open`);
        $(button).ariaExpanded = isOpen;
    }
}

// ---- what people do ----

$('signin-form').onsubmit = event => {
    event.preventDefault();
    start($('name').value);
};

$('signout').onclick = () => {
    rememberName('');
    showSignin();
};

$('join-form').onsubmit = event => {
    event.preventDefault();
    if ($('join-name').value) open($('join-name').value);
    $('join-name').value = '';
};

$('composer').onsubmit = event => {
    event.preventDefault();
    const text = $('text').value;
    const bytes = new TextEncoder().encode(text).length;
    if (!text.trim()) return;
    if (bytes > client.limits.text) {
        say(`This message is too long: ${bytes} bytes of at most ${client.limits.text}.`);
        return;
    }
    $('text').value = '';
    typedAt = 0;
    client.send(current.name, text);
};

$('text').onkeydown = event => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $('composer').requestSubmit();
};

// No `off` follows a message: its arrival says the same, and the server counts typing events.
$('text').oninput = () => {
    const on = $('text').value !== '';
    if (on && Date.now() - typedAt < TYPING_EVERY_MS) return;
    typedAt = on ? Date.now() : 0;
    client.typing(current.name, on);
};

log.onscroll = () => {
    atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    if (atEnd) $('newer').hidden = true;
    if (log.scrollTop < 60 && current?.more && !atEnd) client.loadOlder(current.name);
};

new ResizeObserver(() => { if (atEnd) log.scrollTop = log.scrollHeight; }).observe(log);
$('older').onclick = () => client.loadOlder(current.name);
$('newer').onclick = () => { log.scrollTop = log.scrollHeight; };
$('leave').onclick = () => closeRoom(current.name);
$('state').onclick = () => client.nudge();
$('show-rooms').onclick = () => {
    drawer('rooms');
    refreshRooms();
};
$('show-members').onclick = () => drawer('members');
$('shade').onclick = () => drawer(null);
document.onkeydown = event => { if (event.key === 'Escape') $('shade').click(); };
window.onhashchange = () => { if (client && current && roomInAddress()) open(roomInAddress()); };
window.ononline = () => client?.nudge();
// A page that was left may be kept for the way back, with its connection open: nobody is there any more.
window.onpagehide = () => client?.close();
window.onpageshow = event => { if (event.persisted) client?.connect(); };
document.onvisibilitychange = () => {
    if (document.hidden || !current) return;
    unread.delete(current.name);
    drawRooms();
    client.nudge();
};
setInterval(() => { if (client?.state === 'online' && !document.hidden) refreshRooms(); }, ROOMS_EVERY_MS);

$('name').value = recall('name', sessionStorage) ?? recall('name') ?? '';
if ($('name').value) start($('name').value);
else showSignin();
