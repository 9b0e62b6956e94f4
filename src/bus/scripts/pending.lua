-- Messages that are not known to be in the store, and whose publisher is dead.
-- KEYS pending
-- ARGV keys of rooms and of windows without the name, ms after which an entry is looked at, ms after
--      which its publisher's life doesn't count, ms after which what isn't in the window is given up, how
--      many entries to pass over, life of this Redis, uid prefixes of the living (8 bytes each, one after the
--      other)
-- Answer: how many to pass over the next time, (room, number, 1 if the number stands or 0 or -1 given up,
-- header, payload)...
local SCAN, BATCH, BYTES = 500, 100, 1048576

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local passed = tonumber(ARGV[6])
local entries = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now - ARGV[3]), 'WITHSCORES',
                           'LIMIT', passed, SCAN)
local alive, answer, bytes = {}, {0}, 0

for at = 1, #ARGV[8], 8 do
    alive[string.sub(ARGV[8], at, at + 7)] = true
end

local function stands(room, number)
    local state = redis.call('HMGET', ARGV[1] .. ':' .. room, 'life', 'b')

    -- Given out since the room was opened, and that under this life.
    return state[1] == ARGV[7] and tonumber(number) > tonumber(state[2])
end

local function add(room, number, verdict, header, event)
    for _, value in ipairs({room, number, verdict, header, event}) do
        answer[#answer + 1] = value
    end
    bytes = bytes + #header + #event
end

for i = 1, #entries, 2 do
    local room, number = string.match(entries[i], '^([^%z]+)%z(%d+)$')
    local age = now - entries[i + 1]
    local record = redis.call('XRANGE', ARGV[2] .. ':' .. room, number .. '-0', number .. '-0')[1]

    if #answer > BATCH * 5 or bytes > BYTES then
        answer[1] = passed
        return answer
    end
    if record then
        local fields = {}

        for f = 1, #record[2], 2 do
            fields[record[2][f]] = record[2][f + 1]
        end
        if age < tonumber(ARGV[4]) and alive[string.sub(fields.h, 1, 8)] then
            passed = passed + 1
        else
            add(room, number, stands(room, number) and 1 or 0, fields.h, fields.e)
        end
    elseif age > tonumber(ARGV[5]) then
        redis.call('ZREM', KEYS[1], entries[i])
        add(room, number, -1, '', '')
    else
        passed = passed + 1
    end
end
if #entries == SCAN * 2 then answer[1] = passed end
return answer
