-- publish.lua - one message: its number, record, key, place among the pending ones, and its way to the
-- members. Rules 2, 3, 4, 6 and 8 of src/ARCHITECTURE.md in one atomic step. Eight commands for a message
-- that is new.
--
-- KEYS  1 room  2 window  3 keys0  4 keys1  5 pending
-- ARGV  1 life  2 name of the room  3 uid  4 field in keys  5 NUL user NUL key
--       6 time of receipt (us), a space, head  7 tail
--       8 mode: 0; 1 no number for what is unknown here, the store is to be asked; 2 it has been asked
--       9 instead_of, or empty  10 PUBLISH or SPUBLISH  11 channel
--       12 window_messages  13 retry_window, window_ttl and REDIS_ROOM_TTL_MS (ms), with spaces
--       14 the number it has, or 0
-- Answer: {status (enum bus_status)}, with 0 also number and time, with 1 number, header and payload of the
-- record.
--
-- Most of its cost is in the number of commands, and of long strings that Lua makes. So what goes into the
-- stream is the very payload of the channel.
local OK, DUPLICATE, NOT_FOUND, NOT_OPEN, FULL = 0, 1, 2, 3, 4
local call, format = redis.call, string.format
local window, pending = KEYS[2], KEYS[5]
local name, uid, field, mode, void = ARGV[2], ARGV[3], ARGV[4], ARGV[8], ARGV[9]

local room = call('HMGET', KEYS[1], 'life', 'n', 't', 'g', 'gt')
if room[1] ~= ARGV[1] then
    return {NOT_OPEN}
end
local n = room[2] + 1
local seq = format('%d', n) -- a number left to itself becomes 1e+15
local clock = call('TIME')
local t = clock[1] * 1000 + math.floor(clock[2] / 1000)
if t < tonumber(room[3]) then
    t = tonumber(room[3])
end
local time = format('%d', t)

-- Is it known? The other hash first, because the look into the current one is the entry of a new message as
-- well.
local current, other = KEYS[3], KEYS[4]
if room[4] == '1' then
    current, other = other, current
end
local turn = t > tonumber(room[5]) -- the hashes change places, but only with a message that is appended
local held = call('HGET', other, field)
if not held then
    if turn or mode == '1' then
        held = call('HGET', current, field)
    elseif call('HSETNX', current, field, seq) == 0 then
        held = call('HGET', current, field)
    end
end

local answer
if held then
    -- The answer for a message that has the number `held`; nil: it gets another one.
    local function known()
        if held == void then
            return nil
        end
        local since = call('ZSCORE', pending, name .. '\0' .. held)
        if since and tonumber(held) <= tonumber(call('HGET', KEYS[1], 'b')) then
            return nil -- not stored before the room was opened anew: its number doesn't stand any more
        end
        local record = call('XRANGE', window, held, held)[1]
        if record then
            local header, payload = record[2][2], record[2][4]
            if header:sub(1, 16) == uid then
                return {OK, tonumber(held), tonumber(header:match('^%d+', 17))} -- carried out a second time
            end
            return {DUPLICATE, tonumber(held), header, payload}
        end
        -- Cut off the window. Its publisher may be about to store it; a second one would be one too many. But who
        -- knows its number and has the message (from a spool, or a dead worker's) stores that very one.
        if since then
            local same = field:byte(1) == 0 or held == ARGV[14]
            return same and {OK, tonumber(held), tonumber(since)} or {FULL}
        end
        return mode ~= '2' and {NOT_FOUND} or nil
    end
    answer = known()
elseif mode == '1' then
    answer = {NOT_FOUND}
end

if void ~= '' or held then
    local function forget(number)
        call('XDEL', window, number)
        call('ZREM', pending, name .. '\0' .. number)
    end
    if void ~= '' and (not answer or answer[1] <= DUPLICATE) then
        forget(void)
    end
    if held and not answer then
        forget(held)
    end
end
if answer then
    return answer
end

local retry_window, window_ttl, room_ttl
if turn then
    retry_window, window_ttl, room_ttl = ARGV[13]:match('(%d+) (%d+) (%d+)')
    current, other = other, current
    call('HSET', KEYS[1], 'g', room[4] == '1' and 0 or 1, 'gt', format('%d', t + retry_window))
    call('UNLINK', current)
    -- A value of more than 64 bytes makes it a real hash at once. Redis searches small ones from end to end,
    -- which with some hundred keys costs more than all else here.
    call('HSET', current, '', ('-'):rep(65))
end
if turn or held then
    call('HSET', current, field, seq)
end
if held then
    call('HDEL', other, field)
end

local payload = 'm' .. seq .. ' ' .. ARGV[6] .. seq .. ',"time":' .. time .. ARGV[7]
call('XADD', window, 'MAXLEN', '~', ARGV[12], seq .. '-0', 'h', uid .. time .. ARGV[5], 'e', payload)
call('HSET', KEYS[1], 'n', seq, 't', time)
call('ZADD', pending, time, name .. '\0' .. seq)
call(ARGV[10], ARGV[11], payload)
if turn then
    -- What is appended until the next turn lives for its time beyond that; then this is done again.
    call('PEXPIRE', KEYS[1], retry_window + room_ttl)
    call('PEXPIRE', window, retry_window + window_ttl)
    call('PEXPIRE', current, 2 * retry_window)
end
return {OK, n, t}
