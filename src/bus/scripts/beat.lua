-- A worker lives. Whoever has the lease counts the others, and takes out those that don't.
-- KEYS workers sweeper
-- ARGV worker, its connections, its uid prefix in hex, ms after which one is dead, ms of a lease, ms
--      that are a pause
-- Answer: when this worker's entry was made, connections of all; for the holder of the lease also: 1 if it
-- judges, how many it has just taken out, (id and uid prefix in hex) of each that lives
--
-- It judges only after it has beaten without a pause for as long as it takes to be dead: when Redis hung, was
-- restarted or has another clock now, everybody's entry is old, and everybody has that time to come back.
local id, dead = ARGV[1], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entry_form = '^(%d+) (%d+) (%x+) (%d+) (%d+)$'
local born, since = now, now

local own = redis.call('HGET', KEYS[1], id)
if own then
    local beat, _, _, made, steady = string.match(own, entry_form)
    local pause = now - beat

    born = tonumber(made)
    if pause >= 0 and pause < tonumber(ARGV[6]) then since = tonumber(steady) end
end
redis.call('HSET', KEYS[1], id, string.format('%d %s %s %d %d', now, ARGV[2], ARGV[3], born, since))

local holder, total = string.match(redis.call('GET', KEYS[2]) or '', '^(%w+) (%d+)$')
if holder and holder ~= id then
    return {string.format('%d', born), total}
end
total = 0

local judges = now - since >= dead
local answer, removed = {string.format('%d', born), '', judges and 1 or 0, 0}, 0
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
    local beat, connections, prefix = string.match(entries[i + 1], entry_form)

    -- One from the future is from before the clock went back.
    if beat and math.abs(now - beat) < dead then
        total = total + connections
        answer[#answer + 1] = entries[i] .. prefix
    elseif judges then
        redis.call('HDEL', KEYS[1], entries[i])
        removed = removed + 1
    end
end
redis.call('SET', KEYS[2], string.format('%s %d', id, total), 'PX', ARGV[5])
answer[2] = string.format('%d', total)
answer[4] = removed
return answer
