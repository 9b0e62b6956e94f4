-- window.lua - the newest records of a range that the stream has, and whether the others are all in the store
-- (rule 7).
--
-- KEYS  1 room  2 window  3 pending  4 since
-- ARGV  1 life  2 name of the room  3 above  4 upto  5 limit  6 failover_grace (ms)
-- Answer: {status, below, pending 0 or 1, number, payload, number, payload, ...}, numbers falling; with 3
-- (not open) below says nothing. Below as in bus.h.
local OK, NOT_OPEN = 0, 3
local SCAN = 1000 -- more pending ones than this are not looked through
local call, format = redis.call, string.format
local above, upto, limit = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local room = call('HMGET', KEYS[1], 'life', 'n', 'b', 't', 'bt')
if not room[1] then
    -- Nobody spoke there for long; or Redis was emptied a moment ago, and doesn't know what is pending: as in
    -- open.lua.
    local clock = call('TIME')
    local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
    local since = tonumber(call('GET', KEYS[4]) or now + 1)
    if since > now then
        since = now
        call('SET', KEYS[4], format('%d', now))
    end
    return {NOT_OPEN, 0, since + ARGV[6] > now and 1 or 0}
end
local answer = {OK, 0, 0}
local n, below = tonumber(room[2]), nil
local time = room[4] -- what was given `below` and before is not younger than this

-- Of what is older than the room's opening the stream may lack some: those that a failover lost here but not
-- in the store. That part is the store's; under another life all of it is.
if room[1] == ARGV[1] then
    local low = math.max(above, tonumber(room[3]))
    local last = math.min(upto, n)
    local page = {}
    if last > low and limit > 0 then
        page = call('XREVRANGE', KEYS[2], format('%d', last), format('%d', low + 1), 'COUNT', limit)
    end
    for i = 1, #page do
        answer[2 * i + 2] = page[i][1]:match('^%d+')
        answer[2 * i + 3] = page[i][2][4]
    end
    if #page > 0 then
        time = page[#page][2][2]:match('^%d+', 17)
    end
    if last <= low then
        below = math.min(low, upto)
        time = room[5]
    elseif #page == limit and limit > 0 then
        below = page[limit][1]:match('^%d+') - 1 -- older ones are asked for separately
        answer[2] = below
        return answer
    else
        local first = call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
        local number = first and tonumber(first[1]:match('^%d+'))
        if not first or limit == 0 then
            below = last
        elseif number <= low + 1 then
            below = low
        else
            below = math.min(number - 1, last)
            time = first[2][2]:match('^%d+', 17)
        end
    end
else
    below = upto
end

answer[2] = below
if below > above then
    -- Times never fall in a room, so only entries as old as `time` can be meant: few, unless the store is
    -- stuck.
    local old = call('ZRANGEBYSCORE', KEYS[3], '-inf', time, 'LIMIT', 0, SCAN)
    local prefix = ARGV[2] .. '\0'
    if #old == SCAN then
        answer[3] = 1
    end
    for i = 1, #old do
        if old[i]:sub(1, #prefix) == prefix then
            local number = tonumber(old[i]:sub(#prefix + 1))
            if number > above and number <= below then
                answer[3] = 1
                break
            end
        end
    end
end
return answer
